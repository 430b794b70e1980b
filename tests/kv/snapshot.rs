//! Saved sequences: what was saved goes on to the bit, and bytes from outside are not trusted.

use katari::engine::Engine;
use katari::kv::KvType;

use super::{ARCHITECTURES, feed, open, tokens};
use crate::devices::{Backend, on_every_device};
use crate::support::{Random, Tiny};

on_every_device!(
    a_saved_sequence_goes_on_to_the_bit,
    what_a_shift_cut_is_remembered,
    a_cut_saved_session_is_refused_wherever_it_is_cut,
    a_lying_saved_session_never_panics,
    a_saved_session_of_something_else_is_refused,
);

fn engine(backend: &Backend, architecture: &'static str, kv: KvType) -> Engine {
    open(backend, &Tiny::new(architecture), kv, 2)
}

fn a_saved_sequence_goes_on_to_the_bit(backend: &Backend) {
    for architecture in ARCHITECTURES {
        for &kv in KvType::ALL {
            let mut first = engine(backend, architecture, kv);
            feed(&mut first, 0, &tokens(1, 20));
            let saved = first.export(0).unwrap();
            let expected = feed(&mut first, 0, &[3]);

            let mut second = engine(backend, architecture, kv);
            // Other cells than it had.
            feed(&mut second, 0, &tokens(2, 7));
            second.import(1, &saved).unwrap();
            assert_eq!(second.session().tokens(1), tokens(1, 20));
            assert!(
                backend.same(&feed(&mut second, 1, &[3]), &expected),
                "{architecture} {kv}"
            );
        }
    }
}

fn what_a_shift_cut_is_remembered(backend: &Backend) {
    let mut first = engine(backend, "gptneox", KvType::F16);
    feed(&mut first, 0, &tokens(1, 20));
    first.session().shift(0, 5, 5).unwrap();
    let saved = first.export(0).unwrap();
    let mut second = engine(backend, "gptneox", KvType::F16);
    second.import(0, &saved).unwrap();
    assert_eq!(second.session().reusable(0).len(), 5);
}

fn a_cut_saved_session_is_refused_wherever_it_is_cut(backend: &Backend) {
    let mut engine = engine(backend, "gptneox", KvType::Q8_0);
    feed(&mut engine, 0, &tokens(1, 5));
    let saved = engine.export(0).unwrap();
    for n in 0..saved.len() {
        assert!(engine.import(1, &saved[..n]).is_err(), "{n} bytes");
    }
    let longer = [saved.as_slice(), &[0]].concat();
    assert!(engine.import(1, &longer).is_err());
    assert_eq!(engine.session().len(1), 0);
}

fn a_lying_saved_session_never_panics(backend: &Backend) {
    let mut engine = engine(backend, "gptj", KvType::F16);
    feed(&mut engine, 0, &tokens(1, 5));
    let saved = engine.export(0).unwrap();
    let mut random = Random(1);
    let header = 30 + 4 * 5 + 8;
    for _ in 0..2000 {
        let mut lying = saved.clone();
        for _ in 0..1 + random.below(3) {
            lying[random.below(header)] = random.next() as u8;
        }
        if engine.import(1, &lying).is_ok() {
            // Tokens may differ; all of them exist, and the sequence can be gone on with.
            assert_eq!(engine.session().len(1), 5);
            feed(&mut engine, 1, &[0]);
        }
    }
}

fn a_saved_session_of_something_else_is_refused(backend: &Backend) {
    let mut first = engine(backend, "gptneox", KvType::F16);
    feed(&mut first, 0, &tokens(1, 5));
    let saved = first.export(0).unwrap();
    let error = |mut other: Engine| other.import(0, &saved).unwrap_err().to_string();
    assert!(error(engine(backend, "gptj", KvType::F16)).contains("another model's fingerprint"));
    assert!(error(engine(backend, "gptneox", KvType::Q8_0)).contains("other KV types"));
    let error = first.import(7, &saved).unwrap_err().to_string();
    assert!(error.contains("no sequence 7"), "{error}");
}
