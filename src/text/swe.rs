//! The sub-word tokenizer of GPT-NeoX-Japanese.
//!
//! A line of its vocabulary is one id and the surface forms that share it. Spaces, line breaks,
//! tabs and emoji become tags, `—` and `−` become `ー`; then at each place the form with the
//! smallest id among those of up to three characters is taken, or the longest tag. What no form
//! covers is a tag for its Unicode block, or its bytes. (Described at
//! github.com/tanreinama/Japanese-BPEEncoder_V2.)

use std::collections::{HashMap, HashSet};

use katari_gguf::Metadata;
use katari_gguf::keys::{katari, token_type, tokenizer as keys};

use super::added::AddedTokens;
use super::clean;
use super::decode::{Decoder, Invalid, Lead, Show};
use super::normalize::Steps;
use super::trie::Trie;
use super::vocab::Vocab;
use super::{Algorithm, Parts, SpecialTokens, TextError};

/// The most characters of a form that is no tag.
const LONGEST_FORM: usize = 3;

/// What is replaced before emoji are, in this order.
const REPLACED: [(&str, &str); 8] = [
    (" ", "<SP>"),
    ("\u{3000}", "<SP>"),
    ("\r\n", "<BR>"),
    ("\n", "<BR>"),
    ("\r", "<BR>"),
    ("\t", "<TAB>"),
    ("\u{2014}", "ー"),
    ("\u{2212}", "ー"),
];

/// What tags show; all other tokens show their first form.
const SHOWN: [(&str, &str); 6] = [
    ("<SP>", " "),
    ("<BR>", "\n"),
    ("<TAB>", "\t"),
    ("<BLOCK>", "▀"),
    ("<KIGOU>", "ǀ"),
    ("<U2000U2BFF>", "‖"),
];

struct Swe {
    /// Forms that begin with `<`, tags among them, and their ids, but for control tokens.
    tags: Trie,
    /// All other forms that are short enough to be looked for, by [`packed`].
    forms: HashMap<u64, u32>,
    /// Emoji and emoticons with their tags, in the order they are replaced.
    emoji: Vec<(String, String)>,
    clean: bool,
    bytes: Box<[u32; 256]>,
    sign: u32,
    symbol: u32,
}

/// Rebuilds the tokenizer from a file's metadata.
pub(super) fn read(metadata: &Metadata, vocab: &Vocab) -> Result<Parts, TextError> {
    let lines: &[String] = metadata.need(katari::TOKENIZER_SURFACES)?;
    if lines.len() > vocab.len() {
        return Err(TextError::value(
            katari::TOKENIZER_SURFACES,
            format!("{} lines for {} tokens", lines.len(), vocab.len()),
        ));
    }
    let entries = || {
        lines
            .iter()
            .zip(0..)
            .flat_map(|(line, id)| line.split(',').map(move |form| (form, id)))
    };
    // A form that stands in several lines is the last one's: ids grow, the trie keeps the largest
    // and the map the last.
    let control = |id: u32| vocab.kind(id) == token_type::CONTROL;
    let wanted = || entries().filter(|&(_, id)| !control(id));
    let tags = wanted().filter(|(form, _)| form.starts_with('<'));
    let tags = Trie::new(tags.map(|(form, id)| (form.as_bytes(), id)));
    let mut forms = HashMap::with_capacity(wanted().count());
    forms.extend(wanted().filter_map(|(form, id)| Some((packed(form)?, id))));
    let unknown = vocab
        .unk
        .or_else(|| vocab.find("<|endoftext|>"))
        .ok_or_else(|| {
            TextError::value(keys::UNK_ID, "missing (expected the id of <|endoftext|>)")
        })?;
    let find = |name: &str| tags.get(name).unwrap_or(unknown);
    let (sign, symbol) = (find("<KIGOU>"), find("<U2000U2BFF>"));
    let mut bytes = Box::new([unknown; 256]);
    for (byte, id) in bytes.iter_mut().enumerate() {
        *id = find(&format!("<|byte{byte}|>"));
    }
    let table = emoji(metadata)?;
    let shown = |form: &str| {
        let tag = SHOWN.iter().find(|(tag, _)| *tag == form);
        let tag = tag.map(|(_, text)| text.to_string());
        let emoji = || table.shown.iter().find(|(name, _)| name == form);
        tag.or_else(|| emoji().map(|(_, text)| text.clone()))
    };
    let mut decoder = Decoder::new(Lead::Keep, Invalid::EachSequence).trimmed();
    for id in 0..vocab.len() {
        let form = lines.get(id).and_then(|line| line.split(',').next());
        let form = form.unwrap_or_default();
        match (byte_of(form), form.starts_with('<')) {
            (Some(byte), _) => decoder.push(Show::Byte(byte)),
            (None, true) => decoder.push(Show::Text(&shown(form).unwrap_or(form.to_string()))),
            (None, false) => decoder.push(Show::Text(form)),
        }
    }
    Ok(Parts {
        added: AddedTokens::read(metadata, vocab, true)?,
        steps: Steps::default(),
        algorithm: Box::new(Swe {
            tags,
            forms,
            emoji: table.replaced,
            clean: metadata.opt(katari::TOKENIZER_CLEAN_TEXT)?.unwrap_or(false),
            bytes,
            sign,
            symbol,
        }),
        decoder,
        reference: SpecialTokens::Parse,
    })
}

/// emoji.json: what is replaced by which tag, and what each tag shows.
struct Emoji {
    replaced: Vec<(String, String)>,
    shown: Vec<(String, String)>,
}

fn emoji(metadata: &Metadata) -> Result<Emoji, TextError> {
    let bad = |message: String| TextError::value(katari::TOKENIZER_EMOJI, message);
    let source: &str = metadata.need(katari::TOKENIZER_EMOJI)?;
    let json: serde_json::Value =
        serde_json::from_str(source).map_err(|error| bad(format!("no JSON: {error}")))?;
    let table = |name: &str| -> Result<Vec<(String, String)>, TextError> {
        let object = json.get(name).and_then(|table| table.as_object());
        let object = object.ok_or_else(|| bad(format!("no object '{name}'")))?;
        object
            .iter()
            .map(|(key, value)| match value.as_str() {
                Some(value) => Ok((key.clone(), value.to_string())),
                None => Err(bad(format!("'{name}' holds no string for '{key}'"))),
            })
            .collect()
    };
    let mut replaced = table("emoji")?;
    replaced.retain(|(emoji, _)| !emoji.is_empty());
    Ok(Emoji {
        replaced,
        shown: table("emoji_inv")?,
    })
}

/// The byte that a byte token such as `<|byte227|>` stands for.
fn byte_of(form: &str) -> Option<u8> {
    form.strip_prefix("<|byte")?
        .strip_suffix("|>")?
        .parse()
        .ok()
}

impl Algorithm for Swe {
    fn encode(&self, text: &str, _first: bool, ids: &mut Vec<u32>) {
        let text = self.tagged(text);
        let mut rest = text.as_str();
        while let Some(character) = rest.chars().next() {
            let taken = match self.form(rest) {
                Some((length, id)) => {
                    ids.push(id);
                    length
                }
                None => {
                    self.uncovered(character, ids);
                    character.len_utf8()
                }
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
    }
}

impl Swe {
    /// The text with tags in it.
    fn tagged(&self, text: &str) -> String {
        let mut text = text.to_string();
        for (from, to) in REPLACED {
            if text.contains(from) {
                text = text.replace(from, to);
            }
        }
        // Tags bring in new characters, so what may occur is known only from both.
        let tags = self.emoji.iter().flat_map(|(_, tag)| tag.chars());
        let occurring: HashSet<char> = text.chars().chain(tags).collect();
        for (emoji, tag) in &self.emoji {
            if emoji.chars().all(|c| occurring.contains(&c)) && text.contains(emoji) {
                text = text.replace(emoji, tag);
            }
        }
        match self.clean {
            true => clean::clean(&text),
            false => text,
        }
    }

    /// The form to take at the beginning of `text`: its length in bytes and its id.
    fn form(&self, text: &str) -> Option<(usize, u32)> {
        if text.starts_with('<') {
            let characters =
                |&(n, _): &(usize, u32)| text.get(..n).map(|form| form.chars().count());
            let found: Vec<_> = self.tags.prefixes(text.as_bytes()).collect();
            let tag = found.iter().rev().find(|form| characters(form) > Some(2));
            return tag.or(smallest(&found)).copied();
        }
        let mut found = Vec::with_capacity(LONGEST_FORM);
        for (at, character) in text.char_indices().take(LONGEST_FORM) {
            let length = at + character.len_utf8();
            let id = text
                .get(..length)
                .and_then(|form| self.forms.get(&packed(form)?));
            found.extend(id.map(|&id| (length, id)));
        }
        smallest(&found).copied()
    }

    fn uncovered(&self, character: char, ids: &mut Vec<u32>) {
        match character {
            '\u{a1}'..='\u{bf}' | '\u{1c0}'..='\u{1c3}' | '\u{2b9}'..='\u{362}' => {
                ids.push(self.sign);
            }
            '\u{2000}'..='\u{2bff}' => ids.push(self.symbol),
            _ => {
                let mut buffer = [0; 4];
                let bytes = character.encode_utf8(&mut buffer).bytes();
                ids.extend(bytes.map(|b| self.bytes[usize::from(b)]));
            }
        }
    }
}

/// A form of one to [`LONGEST_FORM`] characters that is no tag, as a number: 21 bits a character,
/// of which none is 0. `None` for all other forms.
fn packed(form: &str) -> Option<u64> {
    let mut key = 0;
    for (at, character) in form.chars().enumerate() {
        if at == LONGEST_FORM || (at == 0 && character == '<') {
            return None;
        }
        key = key << 21 | (u64::from(u32::from(character)) + 1);
    }
    (key != 0).then_some(key)
}

/// The form with the smallest id, the longest of those that share it.
fn smallest(found: &[(usize, u32)]) -> Option<&(usize, u32)> {
    found
        .iter()
        .min_by_key(|&&(length, id)| (id, std::cmp::Reverse(length)))
}
