//! Which turns of a conversation are left out where all of it would be too long.

use super::refusal::Refusal;
use crate::text::Message;

/// What the search for the longest end that fits may render, beside the whole conversation and
/// its last turn: bytes, with [`OF_A_MESSAGE`] for each message. Beyond it fewer turns stay.
const BUDGET: usize = 32 << 20;
/// What a message costs beside its content.
const OF_A_MESSAGE: usize = 64;

/// A shortened conversation: the first `n_system` of the messages by `system` that are kept, and
/// all messages `from` here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    n_system: usize,
    from: usize,
}

/// The ids of as much of a conversation as `room` holds, by `ids_of`. What was said first (but
/// not by `system` before it) is left out turn by turn: an answer goes with what it answers. The
/// last message always stays.
///
/// Rendered are the whole and then ends of doubling length, not each length.
///
/// # Errors
/// Those of `ids_of` for the whole, or for every part that would fit.
pub fn ids_within(
    messages: &[Message],
    room: usize,
    mut ids_of: impl FnMut(&[Message]) -> Result<Vec<u32>, Refusal>,
) -> Result<Vec<u32>, Refusal> {
    let whole = ids_of(messages)?;
    let (system, cuts) = cuts(messages);
    if whole.len() <= room || cuts.len() < 2 {
        return Ok(whole);
    }
    // From the most messages to the least: `cuts[long]` is too long, `cuts[short]` is not.
    let (mut long, mut short) = (0, cuts.len());
    let mut best = None;
    // Doubles until an end is too long; then the search goes between.
    let mut step = Some(1);
    let mut budget = BUDGET;
    while short - long > 1 {
        let probe = match step {
            Some(step) => short.saturating_sub(step).max(long + 1),
            None => long + (short - long) / 2,
        };
        let cut = cuts[probe];
        let kept: Vec<&Message> = (system[..cut.n_system].iter().copied())
            .chain(&messages[cut.from..])
            .collect();
        let cost: usize = (kept.iter())
            .map(|message| OF_A_MESSAGE + message.content.len())
            .sum();
        if best.is_some() {
            match budget.checked_sub(cost) {
                Some(left) => budget = left,
                None => break,
            }
        }
        let kept: Vec<Message> = kept.into_iter().cloned().collect();
        let ids = ids_of(&kept);
        let is_least = probe + 1 == cuts.len();
        match &ids {
            Ok(ids) if ids.len() > room && !is_least => {
                long = probe;
                step = None;
                continue;
            }
            Ok(found) if found.len() > room => return ids,
            Ok(_) => best = Some(ids),
            // Templates refuse conversations that begin with an answer, say: a longer one may do.
            Err(_) if best.is_none() => best = Some(ids),
            Err(_) => {}
        }
        short = probe;
        step = step.map(|step| step * 2);
    }
    best.unwrap_or(Ok(whole))
}

/// The messages by `system` that are kept, and every way to cut the conversation, the whole one
/// first and the last message alone at the end.
fn cuts(messages: &[Message]) -> (Vec<&Message>, Vec<Cut>) {
    let mut users = (messages.iter().enumerate())
        .filter(|(_, message)| message.role == "user")
        .map(|(i, _)| i)
        .peekable();
    let (mut system, mut cuts) = (Vec::new(), Vec::new());
    let mut from = 0;
    loop {
        while let Some(message) = messages.get(from).filter(|m| m.role == "system") {
            system.push(message);
            from += 1;
        }
        cuts.push(Cut {
            n_system: system.len(),
            from,
        });
        if from + 1 >= messages.len() {
            return (system, cuts);
        }
        while users.next_if(|&user| user <= from).is_some() {}
        from = users.peek().copied().unwrap_or(from + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: &str, content: &str) -> Message {
        Message {
            role: role.into(),
            content: content.into(),
        }
    }

    /// As many ids as bytes and messages.
    fn ids_of(messages: &[Message]) -> Vec<u32> {
        let len = messages.iter().map(|m| 1 + m.content.len()).sum();
        vec![0; len]
    }

    /// Leaves out a turn at a time.
    fn one_by_one(messages: &[Message], room: usize) -> Vec<Message> {
        let mut said = messages.to_vec();
        while let Some(first) = said.iter().position(|m| m.role != "system") {
            if ids_of(&said).len() <= room || first + 1 >= said.len() {
                break;
            }
            let next = said[first + 1..].iter().position(|m| m.role == "user");
            let end = next.map_or(first + 1, |next| first + 1 + next);
            said.drain(first..end);
        }
        said
    }

    #[test]
    fn as_much_stays_as_when_turns_go_one_by_one() {
        // Every conversation of six messages, and every room.
        let roles = ["system", "user", "assistant"];
        for number in 0..3usize.pow(6) {
            let said: Vec<Message> = (0..6)
                .map(|i| {
                    let role = roles[number / 3usize.pow(i) % 3];
                    message(role, &"x".repeat(i as usize % 4))
                })
                .collect();
            for room in 0..20 {
                let mut found = Vec::new();
                let ids = ids_within(&said, room, |kept| {
                    found.push(kept.to_vec());
                    Ok(ids_of(kept))
                })
                .unwrap();
                let expected = one_by_one(&said, room);
                assert_eq!(ids, ids_of(&expected), "{number} {room}");
                assert!(found.contains(&expected), "{number} {room}");
            }
        }
    }

    #[test]
    fn a_long_conversation_is_rendered_a_few_times() {
        let said = vec![message("user", "a"); 100_000];
        for room in [0, 2, 100, 10_000, 199_998, 199_999] {
            let (mut n, mut n_messages) = (0, 0);
            let ids = ids_within(&said, room, |kept| {
                n += 1;
                n_messages += kept.len();
                Ok(ids_of(kept))
            })
            .unwrap();
            assert_eq!(ids.len(), (room / 2 * 2).max(2), "{room}");
            assert!(
                n <= 40 && n_messages <= 1_000_000,
                "{room}: {n} {n_messages}"
            );
        }
    }

    #[test]
    fn what_the_search_may_render_is_bounded() {
        // One turn near the end is all that is too long.
        let mut said = vec![message("user", "a"); 1000];
        said[500].content = "x".repeat(4 << 20);
        let mut bytes = 0;
        let ids = ids_within(&said, 10_000, |kept| {
            bytes += kept.iter().map(|m| m.content.len()).sum::<usize>();
            Ok(ids_of(kept))
        })
        .unwrap();
        assert!((2..=2 * 499).contains(&ids.len()), "{}", ids.len());
        assert!(bytes <= BUDGET + (5 << 20), "{bytes}");
    }

    #[test]
    fn a_part_that_the_template_refuses_is_passed_over() {
        let said: Vec<Message> = (0..9)
            .map(|i| message(["user", "assistant"][i % 2], "abc"))
            .chain([message("assistant", "abc")])
            .collect();
        let strict = |kept: &[Message]| match kept[0].role.as_str() {
            "user" => Ok(ids_of(kept)),
            _ => Err(Refusal::Invalid("user first".into())),
        };
        assert_eq!(ids_within(&said, 20, strict).unwrap().len(), 16);
        assert!(
            ids_within(&said, 20, |kept| match kept.len() {
                10 => strict(kept),
                _ => Err(Refusal::Busy),
            })
            .is_err()
        );
    }
}
