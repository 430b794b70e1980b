//! Normalisation steps of a `tokenizer.json`, in order.
//!
//! Unicode normalisation comes from the crate that the reference uses: its tables are of an older
//! Unicode, in which some characters that newer ones reorder or compose stay as they are.

use std::borrow::Cow;

use katari_gguf::Metadata;
use katari_gguf::keys::katari;
use unicode_normalization_alignments::UnicodeNormalization;

use super::TextError;

/// One step.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// Unicode normalisation form C.
    Nfc,
    /// Unicode normalisation form KC.
    Nfkc,
    /// Puts a string before the text.
    Prepend(String),
    /// Puts a string before each line that is not empty at the text's end.
    PrependLines(String),
    /// Replaces one string by another everywhere.
    Replace(String, String),
}

/// What is done to a text before it is cut.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Steps(Vec<Step>);

impl Steps {
    /// From `katari.tokenizer.normalizer`: each step's name followed by its arguments.
    pub fn read(metadata: &Metadata) -> Result<Steps, TextError> {
        let words: &[String] = metadata
            .opt(katari::TOKENIZER_NORMALIZER)?
            .unwrap_or_default();
        let mut words = words.iter();
        let mut steps = Vec::new();
        while let Some(name) = words.next() {
            let mut argument = || {
                words.next().cloned().ok_or_else(|| {
                    TextError::value(
                        katari::TOKENIZER_NORMALIZER,
                        format!("the step '{name}' lacks an argument"),
                    )
                })
            };
            steps.push(match name.as_str() {
                "nfc" => Step::Nfc,
                "nfkc" => Step::Nfkc,
                "prepend" => Step::Prepend(argument()?),
                "prepend-lines" => Step::PrependLines(argument()?),
                "replace" => {
                    let from = argument()?;
                    if from.is_empty() {
                        return Err(TextError::value(
                            katari::TOKENIZER_NORMALIZER,
                            "the step 'replace' looks for an empty string",
                        ));
                    }
                    Step::Replace(from, argument()?)
                }
                other => {
                    return Err(TextError::value(
                        katari::TOKENIZER_NORMALIZER,
                        format!(
                            "'{other}' is no known step (expected nfc, nfkc, prepend, prepend-lines or replace)"
                        ),
                    ));
                }
            });
        }
        Ok(Steps(steps))
    }

    /// The text after all steps.
    pub fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.0
            .iter()
            .fold(Cow::Borrowed(text), |text, step| step.apply(text))
    }
}

impl Step {
    fn apply<'a>(&self, text: Cow<'a, str>) -> Cow<'a, str> {
        match self {
            _ if text.is_ascii() && matches!(self, Step::Nfc | Step::Nfkc) => text,
            Step::Nfc => Cow::Owned(text.nfc().map(|(c, _)| c).collect()),
            Step::Nfkc => Cow::Owned(text.nfkc().map(|(c, _)| c).collect()),
            Step::Prepend(prefix) => Cow::Owned(format!("{prefix}{text}")),
            Step::PrependLines(prefix) => {
                // A line break that ends the text begins no line.
                let (lines, end) = match text.strip_suffix('\n') {
                    Some(lines) => (lines, "\n"),
                    None => (&*text, ""),
                };
                let lines = lines.replace('\n', &format!("\n{prefix}"));
                Cow::Owned(format!("{prefix}{lines}{end}"))
            }
            Step::Replace(from, to) => match text.contains(from.as_str()) {
                true => Cow::Owned(text.replace(from.as_str(), to)),
                false => text,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_with_the_prefix_but_for_an_empty_one_at_the_end() {
        let step = Step::PrependLines("_".into());
        for (text, expected) in [
            ("", "_"),
            ("\n", "_\n"),
            ("a\n\n", "_a\n_\n"),
            ("\n\na", "_\n_\n_a"),
            ("a\nb", "_a\n_b"),
        ] {
            assert_eq!(step.apply(text.into()), expected, "{text:?}");
        }
        // In a time that grows with the text alone: hours, if each line looked at all others.
        let text = "\n".repeat(1 << 20);
        assert_eq!(step.apply(text.into()).len(), 1 << 21);
    }
}
