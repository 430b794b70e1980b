//! vocab.json with merges.txt: byte-level BPE as GPT-2's tokenizer has it.

use std::path::Path;

use katari_gguf::keys::{katari, tokenizer as keys};

use super::list::{Kind, TokenList};
use super::roles::Roles;
use super::{Entries, json_file, text};
use crate::Error;

/// The token that ends a text where no file names another.
const END: &str = "<|endoftext|>";

/// What a byte-level BPE has beside its tokens.
pub(super) struct ByteBpe {
    /// The pre-tokenizer's name in GGUF.
    pub pre: &'static str,
    /// Left and right half of each merge, in order of rank.
    pub merges: Vec<(String, String)>,
    pub add_prefix_space: bool,
    pub ignore_merges: bool,
    /// Whether a text is cut into words first.
    pub words: bool,
    /// Names and arguments of the steps before that.
    pub normalizer: Vec<String>,
}

/// vocab.json and merges.txt as metadata.
pub(super) fn read(
    vocab: &Path,
    merges: &Path,
    roles: &Roles,
    rows: usize,
) -> Result<Entries, Error> {
    let mut list = TokenList::from_vocab(vocab, &json_file(vocab)?)?;
    list.add(
        vocab,
        roles.added.iter().map(|(&id, token)| (id, token)),
        rows,
    )?;
    list.add_special(roles, true, rows);
    if let Some(id) = list.find(END) {
        list.set_type(id, katari_gguf::keys::token_type::CONTROL);
    }
    let bpe = ByteBpe {
        pre: "gpt-2",
        merges: merge_lines(merges)?,
        add_prefix_space: roles.flag("add_prefix_space").unwrap_or(false),
        ignore_merges: false,
        words: true,
        normalizer: Vec::new(),
    };
    bpe.finish(merges, list, rows, roles)
}

/// The pairs of a merges.txt; its first line may name a version.
fn merge_lines(path: &Path) -> Result<Vec<(String, String)>, Error> {
    let text = text(path)?;
    let mut merges = Vec::new();
    for (number, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() || (number == 0 && line.starts_with("#version")) {
            continue;
        }
        match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => {
                merges.push((left.to_string(), right.to_string()));
            }
            _ => {
                return Err(Error::file(
                    path,
                    format!("line {}: '{line}' is no pair of pieces", number + 1),
                ));
            }
        }
    }
    Ok(merges)
}

impl ByteBpe {
    /// The metadata.
    ///
    /// # Errors
    /// A merge of pieces that the vocabulary lacks, or more tokens than rows.
    pub fn finish(
        self,
        path: &Path,
        list: TokenList,
        rows: usize,
        roles: &Roles,
    ) -> Result<Entries, Error> {
        let mut merges = Vec::with_capacity(self.merges.len());
        for (rank, (left, right)) in self.merges.iter().enumerate() {
            let joined = format!("{left}{right}");
            for piece in [left, right, &joined] {
                if list.find(piece).is_none() {
                    return Err(Error::file(
                        path,
                        format!(
                            "merge {rank}, '{left}' and '{right}': '{piece}' is not in the vocabulary"
                        ),
                    ));
                }
                if piece.contains(' ') {
                    return Err(Error::file(
                        path,
                        format!("merge {rank}: '{piece}' holds a space, which GGUF cannot write"),
                    ));
                }
            }
            merges.push(format!("{left} {right}"));
        }
        let mut more: Entries = vec![
            (keys::PRE.into(), self.pre.into()),
            (keys::MERGES.into(), merges.into()),
            (keys::ADD_SPACE_PREFIX.into(), self.add_prefix_space.into()),
        ];
        if self.ignore_merges {
            more.push((katari::TOKENIZER_IGNORE_MERGES.into(), true.into()));
        }
        if !self.words {
            more.push((katari::TOKENIZER_WORDS.into(), false.into()));
        }
        if !self.normalizer.is_empty() {
            more.push((katari::TOKENIZER_NORMALIZER.into(), self.normalizer.into()));
        }
        let end = list.find(END);
        let kind = Kind {
            model: "gpt2",
            more,
            scored: false,
        };
        list.finish(kind, path, rows, roles, |role| {
            end.filter(|_| matches!(role, "bos_token" | "eos_token"))
        })
    }
}
