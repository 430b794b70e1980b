//! The schedule: what is written together is what is written alone, and every way a text ends.

use std::collections::BTreeMap;

use katari::engine::{Engine, EngineOptions};
use katari::sampler::Params;
use katari::schedule::{
    BatchSizes, Event, Finish, Limits, Request, RequestId, Schedule, Timings, WhenContextIsFull,
};
use katari::text::Tokenizer;
use katari_quantize::FileType;

use crate::support::{golden, json, quantized, repository};

struct Model {
    engine: Engine,
    tokenizer: Tokenizer,
}

fn open(checkpoint: &std::path::Path, n_ctx: usize, n_sequences: usize) -> Model {
    let options = EngineOptions {
        n_ctx: Some(n_ctx),
        n_sequences,
        threads: Some(1),
        ..EngineOptions::default()
    };
    let engine = Engine::open(&quantized(checkpoint, FileType::Q8_0), &options).unwrap();
    let tokenizer = Tokenizer::from_metadata(&engine.gguf().metadata).unwrap();
    Model { engine, tokenizer }
}

fn demo(n_ctx: usize, n_sequences: usize) -> Model {
    open(&repository("demo"), n_ctx, n_sequences)
}

impl Model {
    fn schedule(&mut self) -> Schedule<'_> {
        Schedule::new(&mut self.engine, &self.tokenizer)
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        self.tokenizer.prompt_ids(text)
    }
}

/// The likeliest token each time.
fn greedy(prompt: &[u32], max_new: usize) -> Request {
    Request {
        prompt: prompt.to_vec(),
        sampling: Params {
            temperature: 0.0,
            ignore_eos: true,
            ..Params::default()
        },
        limits: Limits {
            max_new: Some(max_new),
            max_length: None,
        },
        ..Request::default()
    }
}

/// A draw.
fn drawn(prompt: &[u32], max_new: usize, seed: u64) -> Request {
    Request {
        sampling: Params {
            top_p: 0.95,
            repetition_penalty: 1.1,
            ..Params::default()
        },
        seed,
        ..greedy(prompt, max_new)
    }
}

/// All news of one request.
#[derive(Debug, Clone, Default, PartialEq)]
struct Story {
    tokens: Vec<u32>,
    text: String,
    end: Option<(Finish, Timings)>,
}

impl Story {
    fn add(&mut self, event: Event) {
        assert_eq!(self.end, None, "news after the last");
        match event {
            Event::Prompt { done, total } => {
                assert!(done <= total);
                assert!(self.tokens.is_empty(), "a prompt's news after a token");
            }
            Event::Logprobs(_) => {}
            Event::Token(token) => self.tokens.push(token),
            Event::Text(text) => {
                assert!(!text.is_empty());
                self.text += &text;
            }
            Event::Done(finish, timings) => self.end = Some((finish, timings)),
        }
    }

    fn finish(&self) -> &Finish {
        &self.end.as_ref().expect("it ended").0
    }

    fn timings(&self) -> &Timings {
        &self.end.as_ref().expect("it ended").1
    }
}

/// Runs everything that was submitted.
fn run(schedule: &mut Schedule<'_>) -> BTreeMap<RequestId, Story> {
    let mut stories: BTreeMap<RequestId, Story> = BTreeMap::new();
    schedule
        .run(&mut |id, event| stories.entry(id).or_default().add(event))
        .unwrap();
    stories
}

/// Runs one request alone.
fn write(model: &mut Model, request: Request) -> Story {
    let mut schedule = model.schedule();
    let id = schedule.submit(request).unwrap();
    run(&mut schedule).remove(&id).unwrap()
}

#[test]
fn goes_on_as_the_reference_does() {
    let case = json(&golden("demo-greedy.json"));
    let prompt: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
    let expected: Vec<u32> = serde_json::from_value(case["greedy"].clone()).unwrap();
    let options = EngineOptions {
        threads: Some(1),
        ..EngineOptions::default()
    };
    let file = quantized(&repository("demo"), FileType::F32);
    let engine = Engine::open(&file, &options).unwrap();
    let tokenizer = Tokenizer::from_metadata(&engine.gguf().metadata).unwrap();
    let mut model = Model { engine, tokenizer };
    let story = write(&mut model, greedy(&prompt, expected.len()));
    assert_eq!(story.tokens, expected);
    assert_eq!(story.finish(), &Finish::Length);
    let text = case["text"].as_str().unwrap();
    assert_eq!(
        text,
        case["prompt"].as_str().unwrap().to_string() + &story.text
    );
    assert_eq!(story.timings().prompt_tokens, prompt.len());
    assert_eq!(story.timings().generated_tokens, expected.len());
}

#[test]
fn written_together_is_written_alone() {
    let prompts = [
        "昔々、あるところに",
        "吾輩は猫である。名前は",
        "昔々、ある山に",
        "雨",
        "その時、",
    ];
    let requests: Vec<Request> = {
        let model = demo(96, 1);
        let requests = prompts.iter().enumerate();
        requests
            .map(|(i, prompt)| drawn(&model.ids(prompt), 10 + 7 * i, i as u64))
            .collect()
    };
    let alone: Vec<Story> = requests
        .iter()
        .map(|request| write(&mut demo(96, 1), request.clone()))
        .collect();
    // More requests than sequences: some wait, all reuse what others left.
    for (n_sequences, prefill) in [(1, 512), (2, 3), (5, 512)] {
        let mut model = demo(96, n_sequences);
        let mut schedule = model.schedule();
        schedule.set_batch_sizes(BatchSizes {
            prefill,
            prefill_beside: 2,
        });
        let ids: Vec<RequestId> = requests
            .iter()
            .map(|request| schedule.submit(request.clone()).unwrap())
            .collect();
        let stories = run(&mut schedule);
        for (id, alone) in ids.iter().zip(&alone) {
            assert_eq!(stories[id].text, alone.text, "{n_sequences} sequences");
            assert_eq!(stories[id].tokens, alone.tokens);
        }
    }
}

#[test]
fn a_prompt_that_begins_as_another_is_not_evaluated_again() {
    let mut model = demo(96, 2);
    let first = model.ids("昔々、あるところに");
    let second = [first.clone(), model.ids("山")].concat();
    let mut schedule = model.schedule();
    let ids = [&first, &second, &first].map(|prompt| {
        let id = schedule.submit(greedy(prompt, 5)).unwrap();
        let story = run(&mut schedule).remove(&id).unwrap();
        (story.timings().cached_tokens, story.text)
    });
    assert_eq!(ids[0].0, 0);
    assert_eq!(ids[1].0, first.len());
    // All but the last, whose logits are wanted.
    assert_eq!(ids[2].0, first.len() - 1);
    assert_eq!(ids[0].1, ids[2].1);
}

/// As the several texts of one request come, or clients with one story.
#[test]
fn prompts_that_come_together_and_begin_alike_are_read_once() {
    let mut model = demo(200, 4);
    let alike = model.ids("昔々、あるところに").repeat(8);
    let others = [model.ids("雨"), [alike.clone(), model.ids("山")].concat()];
    let requests = [&alike, &alike, &others[0], &others[1]];
    let requests = [0, 1, 2, 3].map(|i| drawn(requests[i], 6, i as u64));
    let alone = requests.clone().map(|r| write(&mut demo(200, 1), r));
    let mut schedule = model.schedule();
    schedule.set_batch_sizes(BatchSizes {
        prefill: 10,
        prefill_beside: 10,
    });
    let ids = requests.map(|request| schedule.submit(request).unwrap());
    // Who has nothing to wait for does not wait behind those who do.
    let mut stories: BTreeMap<RequestId, Story> = BTreeMap::new();
    let step = |schedule: &mut Schedule<'_>, stories: &mut BTreeMap<RequestId, Story>| {
        schedule
            .step(&mut |id, event| stories.entry(id).or_default().add(event))
            .unwrap();
    };
    step(&mut schedule, &mut stories);
    assert_eq!(schedule.load(), (2, 2));
    while schedule.is_busy() {
        step(&mut schedule, &mut stories);
    }
    let cached = ids.map(|id| stories[&id].timings().cached_tokens);
    assert_eq!((cached[0], cached[2]), (0, 0));
    // A few tokens are not waited for.
    let most = alike.len() - 16..=alike.len();
    assert!(
        most.contains(&cached[1]) && most.contains(&cached[3]),
        "{cached:?}"
    );
    for (id, alone) in ids.iter().zip(&alone) {
        assert_eq!(stories[id].tokens, alone.tokens);
    }
}

#[test]
fn a_writer_gets_a_token_in_every_pass_beside_a_long_prompt() {
    let mut model = demo(300, 2);
    let short = model.ids("猫");
    let long: Vec<u32> = short.iter().copied().cycle().take(200).collect();
    let mut schedule = model.schedule();
    schedule.set_batch_sizes(BatchSizes {
        prefill: 512,
        prefill_beside: 16,
    });
    let writer = schedule.submit(greedy(&short, 40)).unwrap();
    schedule.step(&mut |_, _| {}).unwrap();
    let reader = schedule.submit(greedy(&long, 1)).unwrap();
    let (mut passes, mut tokens, mut read) = (0, 0, 0);
    while read < 200 {
        let mut sink = |id, event| match event {
            Event::Token(_) if id == writer => tokens += 1,
            Event::Prompt { done, .. } if id == reader => read = done,
            _ => {}
        };
        schedule.step(&mut sink).unwrap();
        passes += 1;
    }
    assert_eq!(passes, 200usize.div_ceil(16));
    assert_eq!(tokens, passes);
}

#[test]
fn a_short_prompt_does_not_wait_for_a_long_one() {
    let mut model = demo(400, 3);
    let short = model.ids("猫");
    let new = model.ids("山の中");
    // Nothing that is cached helps with the long ones.
    for (somebody_writes, first) in [(false, "雨"), (true, "森")] {
        let mut long = model.ids(first);
        long.extend(short.iter().cycle().take(300));
        let mut schedule = model.schedule();
        schedule.set_batch_sizes(BatchSizes {
            prefill: 16,
            prefill_beside: 16,
        });
        if somebody_writes {
            schedule.submit(greedy(&short, 60)).unwrap();
            schedule.step(&mut |_, _| {}).unwrap();
        }
        schedule.submit(greedy(&long, 1)).unwrap();
        schedule.step(&mut |_, _| {}).unwrap();
        let reader = schedule.submit(greedy(&new, 1)).unwrap();
        let mut done = false;
        for _ in 0..new.len().div_ceil(8) {
            let mut sink = |id, event| done |= id == reader && matches!(event, Event::Done(..));
            schedule.step(&mut sink).unwrap();
        }
        assert!(done, "half of each pass is the short prompt's");
        schedule.run(&mut |_, _| {}).unwrap();
    }
}

#[test]
fn who_waits_is_served_in_order_whoever_else_comes() {
    let mut model = demo(400, 2);
    let prompts = ["雨", "猫である", "昔々、あるところに"].map(|text| model.ids(text));
    let mut schedule = model.schedule();
    // One sequence is never free.
    let endless = schedule.submit(greedy(&prompts[0], 300)).unwrap();
    let (mut submitted, mut begun) = (Vec::new(), Vec::new());
    for i in 0..60 {
        // More come than can be served, and most begin as what is cached does.
        submitted.push(schedule.submit(greedy(&prompts[i % 3], 4)).unwrap());
        let mut sink = |id, event| match event {
            Event::Token(_) if id != endless && !begun.contains(&id) => begun.push(id),
            _ => {}
        };
        schedule.step(&mut sink).unwrap();
    }
    // Four tokens each, and a pass in which the next one comes.
    assert!(begun.len() >= 60 / 5, "{}", begun.len());
    assert_eq!(begun, submitted[..begun.len()]);
}

#[test]
fn stop_strings_are_never_said() {
    let mut model = demo(96, 1);
    let prompt = model.ids("昔々、あるところに");
    let whole = write(&mut model, greedy(&prompt, 20));
    let chars: Vec<char> = whole.text.chars().collect();
    // Every pair of neighbours, wherever the tokens' borders are.
    for pair in chars.windows(2) {
        let stop: String = pair.iter().collect();
        let request = Request {
            stop: vec!["never written".into(), stop.clone()],
            ..greedy(&prompt, 20)
        };
        let story = write(&mut model, request);
        let before = whole.text.split(&stop).next().unwrap();
        assert_eq!(story.text, before);
        assert_eq!(story.finish(), &Finish::Stop(stop));
    }
}

/// The likeliest text without `phrase`, by trying: each token alone, and back to the one that
/// began the phrase where it comes.
fn likeliest_without(model: &mut Model, prompt: &[u32], phrase: &str, n: usize) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    // What may not come at each place after the prompt.
    let mut barred: Vec<Vec<Vec<u32>>> = vec![Vec::new()];
    while ids.len() < prompt.len() + n {
        let mut request = greedy(&ids, 1);
        request.sampling.banned = barred[ids.len() - prompt.len()].clone();
        ids.push(write(model, request).tokens[0]);
        barred.push(Vec::new());
        let text_of = |len: usize| {
            let mut stream = model.tokenizer.stream_after(prompt);
            let written = ids[prompt.len()..prompt.len() + len].iter();
            let text: String = written.map(|&id| stream.push(id).to_string()).collect();
            text.to_lowercase()
        };
        let written = ids.len() - prompt.len();
        if let Some(found) = text_of(written).find(phrase) {
            let began = (0..written)
                .find(|&n| text_of(n + 1).len() > found)
                .unwrap();
            let token = ids[prompt.len() + began];
            ids.truncate(prompt.len() + began);
            barred.truncate(began + 1);
            barred[began].push(vec![token]);
        }
    }
    ids.split_off(prompt.len())
}

#[test]
fn banned_phrases_are_never_written_however_they_are_cut() {
    let mut model = demo(96, 1);
    let prompt = model.ids("昔々、あるところに");
    let whole = write(&mut model, greedy(&prompt, 16));
    let chars: Vec<char> = whole.text.chars().collect();
    let mut cut = 0;
    for length in [1, 2, 4] {
        for letters in chars.windows(length).step_by(3) {
            let phrase: String = letters.iter().collect();
            let request = Request {
                banned_phrases: vec!["never written".into(), phrase.clone()],
                logprobs: Some(0),
                ..greedy(&prompt, 16)
            };
            let story = write(&mut model, request);
            assert!(!story.text.contains(&phrase), "{phrase}: {}", story.text);
            let expected = likeliest_without(&mut model, &prompt, &phrase, 16);
            assert_eq!(story.tokens, expected, "{phrase}");
            assert_eq!(story.timings().generated_tokens, 16);
            assert_eq!(story.finish(), &Finish::Length);
            // A phrase that no token has alone.
            let alone = |&id: &u32| model.tokenizer.token_text(id).contains(&phrase);
            cut += usize::from(!whole.tokens.iter().any(alone));
        }
    }
    assert!(cut > 3, "{cut} phrases of several tokens");
}

#[test]
fn banned_phrases_leave_a_text_what_it_is_alone() {
    let prompts = ["昔々、あるところに", "吾輩は猫である。名前は", "雨"];
    let request = |model: &Model, i: usize| Request {
        banned_phrases: ["。", "い", "ました", "の中"].map(String::from).to_vec(),
        stop: vec!["、「".into()],
        ..drawn(&model.ids(prompts[i % 3]), 30, i as u64)
    };
    let alone: Vec<Story> = (0..6)
        .map(|i| {
            let mut model = demo(96, 1);
            let request = request(&model, i);
            write(&mut model, request)
        })
        .collect();
    let mut model = demo(96, 4);
    let requests: Vec<Request> = (0..6).map(|i| request(&model, i)).collect();
    let mut schedule = model.schedule();
    let ids = requests.into_iter().map(|r| schedule.submit(r).unwrap());
    let ids: Vec<RequestId> = ids.collect();
    let stories = run(&mut schedule);
    for (id, alone) in ids.iter().zip(&alone) {
        assert_eq!(stories[id].text, alone.text);
        assert_eq!(stories[id].tokens, alone.tokens);
        assert_eq!(stories[id].finish(), alone.finish());
        for phrase in ["。", "い", "ました", "の中", "、「"] {
            assert!(!alone.text.contains(phrase), "{phrase}: {}", alone.text);
        }
    }
    // Some were long enough to mean something.
    assert!(alone.iter().any(|story| story.tokens.len() == 30));
}

/// Where every token is the beginning of a banned phrase, the text ends.
#[test]
fn a_text_that_may_have_nothing_ends() {
    let mut model = demo(96, 1);
    let prompt = model.ids("昔々");
    let texts = (0..model.engine.n_vocab() as u32).map(|id| model.tokenizer.token_text(id));
    let texts: Vec<String> = texts.collect();
    let mut letters: Vec<String> = texts.concat().chars().map(String::from).collect();
    letters.sort();
    letters.dedup();
    let mut request = greedy(&prompt, 5);
    // Bytes could make other letters.
    let silent = (0..).zip(&texts).filter(|(_, text)| text.is_empty());
    request.sampling.banned = silent.map(|(id, _)| vec![id]).collect();
    request.banned_phrases = letters;
    let story = write(&mut model, request);
    assert_eq!(story.text, "");
    assert_eq!(story.finish(), &Finish::NothingToDraw);
}

#[test]
fn ends_at_the_end_of_text_token() {
    let mut model = demo(96, 1);
    let prompt = model.ids("昔々、あるところに");
    let whole = write(&mut model, greedy(&prompt, 20));
    let at = 7;
    let mut request = greedy(&prompt, 20);
    request.sampling.ignore_eos = false;
    request.sampling.eos = vec![whole.tokens[at]];
    let first = whole
        .tokens
        .iter()
        .position(|&t| t == whole.tokens[at])
        .unwrap();
    let story = write(&mut model, request.clone());
    assert_eq!(story.tokens, &whole.tokens[..first]);
    assert_eq!(story.finish(), &Finish::Eos);
    assert!(whole.text.starts_with(&story.text));

    request.sampling.min_new_tokens = 12;
    let story = write(&mut model, request);
    assert!(story.tokens.len() >= 12, "{story:?}");
}

#[test]
fn ends_at_its_limits() {
    let mut model = demo(96, 1);
    let prompt = model.ids("昔々、あるところに");
    let n = prompt.len();
    let mut generated = |max_new, max_length| {
        let limits = Limits {
            max_new,
            max_length,
        };
        let request = Request {
            limits,
            ..greedy(&prompt, 0)
        };
        let story = write(&mut model, request);
        assert_eq!(story.finish(), &Finish::Length);
        assert_eq!(story.timings().generated_tokens, story.tokens.len());
        story.tokens.len()
    };
    assert_eq!(generated(Some(5), None), 5);
    assert_eq!(generated(Some(0), None), 0);
    assert_eq!(generated(None, Some(n + 3)), 3);
    assert_eq!(generated(Some(9), Some(n + 3)), 3);
    assert_eq!(generated(Some(2), Some(n + 3)), 2);
    assert_eq!(generated(None, Some(n)), 0);
}

#[test]
fn a_full_context_ends_or_is_shifted() {
    let n_ctx = 24;
    for checkpoint in [
        repository("demo"),
        golden("gptj-genji"),
        golden("neox-japanese-small"),
        // Learned positions: evaluated again.
        golden("gpt2-rinna"),
    ] {
        let mut model = open(&checkpoint, n_ctx, 2);
        let prompt = model.ids("猫である");
        let ended = write(&mut model, greedy(&prompt, 100));
        assert_eq!(ended.finish(), &Finish::Context);
        // The last token needs no place: nothing is drawn after it.
        assert_eq!(prompt.len() + ended.tokens.len(), n_ctx + 1);

        let shifted = |keep| Request {
            when_full: WhenContextIsFull::Shift { keep },
            ..greedy(&prompt, 100)
        };
        let story = write(&mut model, shifted(2));
        assert_eq!(story.finish(), &Finish::Length);
        assert_eq!(story.tokens.len(), 100);
        assert!(story.tokens.starts_with(&ended.tokens));
        // What is cached now is no fresh evaluation beyond the kept tokens, and is not reused.
        let again = write(&mut model, shifted(2));
        assert_eq!(again.tokens, story.tokens);
        // Keeping almost everything leaves one token to forget at a time.
        let story = write(&mut model, shifted(n_ctx - 1));
        assert_eq!(story.tokens.len(), 100);
    }
}

#[test]
fn cancelled_requests_end_whether_they_run_or_wait() {
    let mut model = demo(96, 1);
    let prompt = model.ids("昔々");
    let mut schedule = model.schedule();
    let running = schedule.submit(greedy(&prompt, 50)).unwrap();
    let waiting = schedule.submit(greedy(&prompt, 50)).unwrap();
    let third = schedule.submit(greedy(&prompt, 3)).unwrap();
    let mut stories: BTreeMap<RequestId, Story> = BTreeMap::new();
    let mut sink = |id, event| stories.entry(id).or_default().add(event);
    for _ in 0..4 {
        schedule.step(&mut sink).unwrap();
    }
    schedule.cancel(running);
    schedule.cancel(waiting);
    schedule.run(&mut sink).unwrap();
    // Ending twice is nothing.
    schedule.cancel(running);
    schedule.run(&mut sink).unwrap();
    assert_eq!(stories[&running].finish(), &Finish::Cancelled);
    assert_eq!(stories[&running].tokens.len(), 4);
    assert_eq!(stories[&waiting].finish(), &Finish::Cancelled);
    assert_eq!(stories[&third].tokens.len(), 3);
}

#[test]
fn requests_that_cannot_be_run_are_refused() {
    let mut model = demo(24, 1);
    let n_vocab = model.engine.n_vocab() as u32;
    let mut schedule = model.schedule();
    let mut refused = |request: Request| schedule.submit(request).unwrap_err().to_string();
    assert!(refused(greedy(&[], 1)).contains("no tokens"));
    let error = refused(greedy(&[5; 25], 1));
    assert!(error.contains("25 tokens, expected at most 24"), "{error}");
    assert!(refused(greedy(&[n_vocab], 1)).contains("beyond the embedding"));
    let mut request = greedy(&[5], 1);
    request.sampling.top_p = f32::NAN;
    assert!(refused(request).contains("top_p"));
    let mut request = greedy(&[5], 1);
    request.stop = vec![String::new()];
    assert!(refused(request).contains("empty"));
    let mut request = greedy(&[5], 1);
    request.when_full = WhenContextIsFull::Shift { keep: 24 };
    assert!(refused(request).contains("keeps 24 tokens"));
    let mut request = greedy(&[5], 1);
    request.banned_phrases = vec!["a".into()];
    request.when_full = WhenContextIsFull::Shift { keep: 0 };
    assert!(refused(request.clone()).contains("cannot be had together"));
    request.banned_phrases = vec![String::new()];
    assert!(refused(request).contains("phrase is empty"));
    assert!(!schedule.is_busy());
}
