//! Stop strings across token borders: text is let out only when no stop string can begin in it.

/// Holds text back while it may be the beginning of a stop string.
#[derive(Debug, Clone, Default)]
pub struct Stops {
    stops: Vec<String>,
    held: String,
}

/// What may be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// Text that no stop string begins in.
    pub text: String,
    /// The stop string that came after it.
    pub stop: Option<String>,
}

impl Stops {
    /// Watches for `stops`, none of them empty.
    pub fn new(stops: Vec<String>) -> Self {
        Stops {
            stops,
            held: String::new(),
        }
    }

    /// Takes more text. The stop string that is complete first counts (of two that end together
    /// the longer), so that it does not matter in which pieces the text comes.
    pub fn push(&mut self, text: &str) -> Released {
        self.held.push_str(text);
        let found = self
            .stops
            .iter()
            .filter_map(|stop| {
                let start = self.held.find(stop.as_str())?;
                Some((start + stop.len(), start, stop))
            })
            .min();
        if let Some((_, start, stop)) = found {
            let stop = Some(stop.clone());
            self.held.truncate(start);
            let text = std::mem::take(&mut self.held);
            return Released { text, stop };
        }
        let held_from = possible_beginning(&self.held, &self.stops);
        let kept = self.held.split_off(held_from);
        Released {
            text: std::mem::replace(&mut self.held, kept),
            stop: None,
        }
    }

    /// What is held back at the end of the text: it was no stop string after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Where in `text`, which has none of `wanted` in it, the first may begin that is not over; its
/// length where none may.
pub(super) fn possible_beginning(text: &str, wanted: &[String]) -> usize {
    let longest = wanted.iter().map(String::len).max().unwrap_or(0);
    (text.char_indices().map(|(at, _)| at))
        .filter(|at| text.len() - at < longest)
        .find(|&at| wanted.iter().any(|w| w.starts_with(&text[at..])))
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes out of `pieces`, and what stopped it.
    fn drive(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut watch = Stops::new(stops.iter().map(|s| s.to_string()).collect());
        let mut out = String::new();
        for piece in pieces {
            let released = watch.push(piece);
            out += &released.text;
            if released.stop.is_some() {
                return (out, released.stop);
            }
        }
        out += &watch.finish();
        (out, None)
    }

    #[test]
    fn a_stop_string_over_three_tokens_is_never_said() {
        let (text, stop) = drive(&["システム:"], &["はい。シ", "ステ", "ム: 次"]);
        assert_eq!(
            (text.as_str(), stop.as_deref()),
            ("はい。", Some("システム:"))
        );
    }

    #[test]
    fn a_beginning_that_comes_to_nothing_is_said() {
        let (text, stop) = drive(&["END"], &["the EN", "EN", "D"]);
        assert_eq!((text.as_str(), stop.as_deref()), ("the EN", Some("END")));
        let (text, stop) = drive(&["END"], &["the EN", "d"]);
        assert_eq!((text.as_str(), stop), ("the ENd", None));
        let (text, stop) = drive(&["END"], &["the EN"]);
        assert_eq!((text.as_str(), stop), ("the EN", None));
    }

    #[test]
    fn only_what_may_be_a_beginning_is_held_back() {
        let mut watch = Stops::new(vec!["\n\n".into()]);
        assert_eq!(watch.push("猫である").text, "猫である");
        assert_eq!(watch.push("。\n").text, "。");
        assert_eq!(watch.push("名前は").text, "\n名前は");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            text in "[abあ]{0,20}",
            stops in prop::collection::vec("[abあ]{1,4}", 0..3),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let chars: Vec<String> = text.chars().map(String::from).collect();
            let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
            let (out, stop) = drive(&stops, &[&text]);
            prop_assert_eq!(drive(&stops, &chars), (out.clone(), stop.clone()));
            // What was said and the stop string are the text's beginning, and no stop string
            // was said.
            let said = out.clone() + &stop.unwrap_or_default();
            prop_assert!(text.starts_with(&said));
            prop_assert!(!stops.iter().any(|s| out.contains(s)));
        }
    }
}
