//! Byte-level BPE (Radford et al. 2019): the text is cut into words, each word's bytes merge in
//! order of the merges' ranks, and every byte is written as a printable character in the
//! vocabulary.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use katari_gguf::Metadata;
use katari_gguf::keys::{katari, token_type, tokenizer as keys};

use super::added::AddedTokens;
use super::decode::{Decoder, Invalid, Lead, Show};
use super::normalize::Steps;
use super::pretokenize::gpt2_words;
use super::vocab::Vocab;
use super::{Algorithm, Parts, SpecialTokens, TextError};

/// Pre-tokenizers of other programs' files that cut words as GPT-2 does.
const GPT2_LIKE: [&str; 5] = ["gpt-2", "gpt2", "olmo", "mpt", "jais"];
/// No neighbour.
const NONE: usize = usize::MAX;

struct ByteBpe {
    /// The token of each byte, where there is one.
    bytes: Box<[Option<u32>; 256]>,
    /// What two neighbours become, and the merge's rank.
    merges: HashMap<(u32, u32), Merge>,
    /// Whole words that are tokens whatever the merges say, by their bytes.
    whole: HashMap<Vec<u8>, u32>,
    unk: Option<u32>,
    /// Whether a space is put before each stretch that has none.
    add_space: bool,
    /// Whether stretches are cut into words.
    words: bool,
}

#[derive(Clone, Copy)]
struct Merge {
    rank: u32,
    id: u32,
}

/// Rebuilds a byte-level BPE from a file's metadata.
pub(super) fn read(metadata: &Metadata, vocab: &Vocab) -> Result<Parts, TextError> {
    let pre: &str = metadata.opt(keys::PRE)?.unwrap_or("gpt-2");
    if !GPT2_LIKE.contains(&pre) {
        return Err(TextError::value(
            keys::PRE,
            format!("'{pre}' is no pre-tokenizer this program knows (expected gpt-2 or olmo)"),
        ));
    }
    let alphabet = Alphabet::new();
    let mut bytes = Box::new([None; 256]);
    for byte in 0..=255u8 {
        let mut name = [0; 4];
        let name = alphabet.char_of(byte).encode_utf8(&mut name);
        bytes[usize::from(byte)] = vocab.find(name);
    }
    let mut whole = HashMap::new();
    let ignore_merges: Option<bool> = metadata.opt(katari::TOKENIZER_IGNORE_MERGES)?;
    if ignore_merges.unwrap_or(false) {
        let words = vocab.iter().filter(|t| t.2 == token_type::NORMAL);
        whole.extend(words.filter_map(|(id, token, _)| Some((alphabet.bytes_of(token)?, id))));
    }
    let mut decoder = Decoder::new(Lead::Keep, Invalid::EachSequence);
    for (_, token, kind) in vocab.iter() {
        match (kind, alphabet.bytes_of(token)) {
            (token_type::UNUSED, _) => decoder.push(Show::Bytes(b"")),
            (_, Some(bytes)) => decoder.push(Show::Bytes(&bytes)),
            (_, None) => decoder.push(Show::Bytes(token.as_bytes())),
        }
    }
    Ok(Parts {
        added: AddedTokens::read(metadata, vocab, true)?,
        steps: Steps::read(metadata)?,
        algorithm: Box::new(ByteBpe {
            bytes,
            merges: merges(metadata, vocab)?,
            whole,
            unk: vocab
                .iter()
                .find(|t| t.2 == token_type::UNKNOWN)
                .map(|t| t.0),
            add_space: metadata.opt(keys::ADD_SPACE_PREFIX)?.unwrap_or(false),
            words: metadata.opt(katari::TOKENIZER_WORDS)?.unwrap_or(true),
        }),
        decoder,
        reference: SpecialTokens::Parse,
    })
}

/// The merges by the ids they join.
fn merges(metadata: &Metadata, vocab: &Vocab) -> Result<HashMap<(u32, u32), Merge>, TextError> {
    let lines: &[String] = metadata.need(keys::MERGES)?;
    let mut merges = HashMap::with_capacity(lines.len());
    let mut joined = String::new();
    for (rank, line) in lines.iter().enumerate() {
        let bad = |what: String| TextError::value(keys::MERGES, format!("merge {rank}: {what}"));
        let Some((left, right)) = line.split_once(' ') else {
            return Err(bad(format!("'{line}' is no pair of pieces")));
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let id = |name: &str| {
            vocab
                .find(name)
                .ok_or_else(|| bad(format!("'{name}' is not among the tokens")))
        };
        let merge = Merge {
            rank: rank as u32,
            id: id(&joined)?,
        };
        // A merge that stands twice has its later rank, as in the reference.
        merges.insert((id(left)?, id(right)?), merge);
    }
    Ok(merges)
}

impl Algorithm for ByteBpe {
    fn encode(&self, text: &str, _first: bool, ids: &mut Vec<u32>) {
        let spaced;
        let text = match self.add_space && !text.starts_with(' ') {
            true => {
                spaced = format!(" {text}");
                spaced.as_str()
            }
            false => text,
        };
        match self.words {
            true => gpt2_words(text).for_each(|word| self.word(word.as_bytes(), ids)),
            false => self.word(text.as_bytes(), ids),
        }
    }
}

/// A token of a word between its neighbours.
struct Symbol {
    id: u32,
    left: usize,
    /// [`NONE`] for the last one.
    right: usize,
    gone: bool,
}

impl ByteBpe {
    fn word(&self, word: &[u8], ids: &mut Vec<u32>) {
        if let Some(&id) = self.whole.get(word) {
            ids.push(id);
            return;
        }
        let mut symbols: Vec<Symbol> = Vec::with_capacity(word.len());
        for &byte in word {
            // Without an unknown token, the reference leaves out what it does not know.
            let Some(id) = self.bytes[usize::from(byte)].or(self.unk) else {
                continue;
            };
            let here = symbols.len();
            symbols.push(Symbol {
                id,
                left: here.checked_sub(1).unwrap_or(NONE),
                right: here + 1,
                gone: false,
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.right = NONE;
        }
        // (rank, place, what it becomes): the lowest rank first, the leftmost of equals.
        let mut queue = BinaryHeap::new();
        for left in 0..symbols.len() {
            self.queue(&symbols, left, &mut queue);
        }
        while let Some(Reverse((_, at, id))) = queue.pop() {
            if symbols[at].gone || self.merge(&symbols, at).is_none_or(|m| m.id != id) {
                continue;
            }
            let right = symbols[at].right;
            let next = symbols[right].right;
            symbols[right].gone = true;
            symbols[at].id = id;
            symbols[at].right = next;
            if let Some(next) = symbols.get_mut(next) {
                next.left = at;
            }
            let left = symbols[at].left;
            self.queue(&symbols, left, &mut queue);
            self.queue(&symbols, at, &mut queue);
        }
        ids.extend(symbols.iter().filter(|s| !s.gone).map(|s| s.id));
    }

    /// The merge of the symbol at `at` with its right neighbour.
    fn merge(&self, symbols: &[Symbol], at: usize) -> Option<Merge> {
        let left = symbols.get(at)?;
        let right = symbols.get(left.right)?;
        self.merges.get(&(left.id, right.id)).copied()
    }

    fn queue(
        &self,
        symbols: &[Symbol],
        at: usize,
        queue: &mut BinaryHeap<Reverse<(u32, usize, u32)>>,
    ) {
        if let Some(merge) = self.merge(symbols, at) {
            queue.push(Reverse((merge.rank, at, merge.id)));
        }
    }
}

/// The printable characters that stand for bytes in a byte-level vocabulary: printable Latin-1
/// for itself, the others from U+0100 on in order.
struct Alphabet {
    chars: [char; 256],
    /// The byte of each character up to U+017F, where it stands for one.
    bytes: [Option<u8>; 0x180],
}

impl Alphabet {
    fn new() -> Alphabet {
        let mut chars = ['\0'; 256];
        let mut others = '\u{100}'..;
        for byte in 0..=255u8 {
            let plain = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            chars[usize::from(byte)] = match plain {
                true => char::from(byte),
                false => others.next().unwrap_or_default(),
            };
        }
        let mut bytes = [None; 0x180];
        for byte in 0..=255u8 {
            if let Some(slot) = bytes.get_mut(chars[usize::from(byte)] as usize) {
                *slot = Some(byte);
            }
        }
        Alphabet { chars, bytes }
    }

    fn char_of(&self, byte: u8) -> char {
        self.chars[usize::from(byte)]
    }

    /// The bytes a piece stands for; `None` where a character stands for none.
    fn bytes_of(&self, piece: &str) -> Option<Vec<u8>> {
        piece
            .chars()
            .map(|c| *self.bytes.get(c as usize)?)
            .collect()
    }
}
