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
    assert!(!schedule.is_busy());
}
