//! What the cards of known models recommend, one a line.
//!
//! These models were published without a generation_config.json that says it.

/// A known model's card.
#[derive(Debug)]
pub struct Known {
    /// Part of the published name, in lower case.
    name: &'static str,
    /// What its usage example sets.
    pub sampling: &'static [Setting],
    /// The name of its chat template, if it has one.
    pub chat: Option<&'static str>,
}

/// One setting of a card's usage example.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)] // each is the reference's parameter of its name
pub enum Setting {
    Temperature(f32),
    TopK(i32),
    TopP(f32),
    RepetitionPenalty(f32),
    MinLength(u32),
    MaxLength(u32),
    MinNewTokens(u32),
    MaxNewTokens(u32),
    /// `bad_words_ids=[[tokenizer.unk_token_id]]`.
    BanUnknown,
}

use Setting::*;

/// The cards; a longer name before one that it contains.
#[rustfmt::skip]
const CARDS: [Known; 6] = [
    Known { name: "genji-jp", sampling: &[Temperature(1.0), TopP(0.9), RepetitionPenalty(1.125), MinLength(1), MaxNewTokens(400)], chat: None },
    Known { name: "japanese-gpt-neox-3.6b-instruction-ppo", sampling: &[Temperature(0.7), RepetitionPenalty(1.1), MaxNewTokens(128)], chat: Some("rinna") },
    Known { name: "japanese-gpt-neox-3.6b-instruction", sampling: &[], chat: Some("rinna") },
    Known { name: "japanese-gpt-neox-3.6b", sampling: &[Temperature(0.8), MinNewTokens(100), MaxNewTokens(100)], chat: None },
    Known { name: "gpt-neox-japanese-2.7b", sampling: &[Temperature(0.9), MaxLength(100)], chat: None },
    Known { name: "japanese-gpt-1b", sampling: &[TopK(500), TopP(0.95), MinLength(100), MaxLength(100), BanUnknown], chat: None },
];

impl Known {
    /// The card whose name one of `names` contains.
    pub fn find(names: [Option<&str>; 2]) -> Option<&'static Known> {
        names.into_iter().flatten().find_map(|name| {
            let name = name.to_lowercase();
            CARDS.iter().find(|card| name.contains(card.name))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruction_model_is_not_taken_for_its_base() {
        let known = Known::find([Some("rinna/japanese-gpt-neox-3.6b-instruction-ppo"), None]);
        assert_eq!(known.and_then(|k| k.chat), Some("rinna"));
        let base = Known::find([Some("x"), Some("japanese-gpt-neox-3.6b")]);
        assert!(base.is_some_and(|k| k.chat.is_none()));
        assert!(Known::find([Some("something-else"), None]).is_none());
    }
}
