//! Phrases that are never written, however their tokens are cut: tokens are held back while their
//! text may be the beginning of one, and where one comes whole, the text goes back to the token
//! that began it. (What koboldcpp calls phrase banning.)

use std::collections::VecDeque;

use super::request::Logprobs;
use super::stops::possible_beginning;
use crate::sampler::Mark;
use crate::text::TextStream;

/// A drawn token, and how things were before it.
pub(super) struct Drawn<'a> {
    pub token: u32,
    pub logprobs: Option<Logprobs>,
    /// What it shows.
    pub text: String,
    /// Of a text without banned phrases nothing is taken back.
    pub before: Option<(Mark, TextStream<'a>)>,
}

/// Tokens that are not certain.
pub(super) struct Phrases<'a> {
    /// Small letters, as everything that is compared here.
    phrases: Vec<String>,
    /// The text of the tokens that are held.
    text: String,
    /// Each with where its text begins.
    held: VecDeque<(usize, Drawn<'a>)>,
}

impl<'a> Phrases<'a> {
    /// Watches for `phrases`, none of them empty; capital letters do not matter.
    pub fn new(phrases: &[String]) -> Self {
        Phrases {
            phrases: phrases
                .iter()
                .map(|phrase| small(phrase).collect())
                .collect(),
            text: String::new(),
            held: VecDeque::new(),
        }
    }

    /// Whether there is anything to watch for.
    pub fn any(&self) -> bool {
        !self.phrases.is_empty()
    }

    /// Takes the next token. Where a phrase is whole now, gives the token that began it and how
    /// many were drawn from it on: none of them is held any more.
    pub fn push(&mut self, drawn: Drawn<'a>) -> Option<(Drawn<'a>, usize)> {
        let start = self.text.len();
        self.text.extend(small(&drawn.text));
        self.held.push_back((start, drawn));
        let found = (self.phrases.iter()).filter_map(|phrase| self.text.find(phrase.as_str()));
        let found = found.min()?;
        let first = self.held.partition_point(|(start, _)| *start <= found) - 1;
        let n = self.held.len() - first;
        let (start, began) = self.held.drain(first..).next()?;
        self.text.truncate(start);
        Some((began, n))
    }

    /// The next token that no phrase can begin in any more.
    pub fn certain(&mut self) -> Option<Drawn<'a>> {
        let end = self.end_of_first();
        match possible_beginning(&self.text, &self.phrases) < end {
            true => None,
            false => self.take(end),
        }
    }

    /// The next token, at the end of the text: no phrase came.
    pub fn rest(&mut self) -> Option<Drawn<'a>> {
        self.take(self.end_of_first())
    }

    /// Where the first token's text ends.
    fn end_of_first(&self) -> usize {
        self.held.get(1).map_or(self.text.len(), |(next, _)| *next)
    }

    fn take(&mut self, end: usize) -> Option<Drawn<'a>> {
        let (_, drawn) = self.held.pop_front()?;
        self.text.drain(..end);
        for (start, _) in &mut self.held {
            *start -= end;
        }
        Some(drawn)
    }
}

/// Small letters. Letter by letter, so that it does not matter how a text is cut.
fn small(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase)
}
