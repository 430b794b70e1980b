//! Ids to text: what each token shows, and how bytes become characters.

use std::borrow::Cow;

/// What one token adds to a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show<'a> {
    /// A token that stands for one byte. A run of such tokens makes characters together.
    Byte(u8),
    /// Bytes of a byte-level vocabulary: any two tokens may share a character.
    Bytes(&'a [u8]),
    /// Whole characters.
    Text(&'a str),
    /// The same, of a token that may begin with a space that a text's beginning does not show.
    Spaced(&'a str),
}

/// What becomes of the space that begins a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lead {
    /// It stays.
    Keep,
    /// One space goes: the dummy prefix.
    One,
    /// One space of each token goes until a token shows something.
    Every,
    /// One space goes, whatever token it comes from.
    WholeText,
    /// The first token shows none of its spaces (`Metaspace` of the `tokenizers` library).
    FirstToken,
}

/// What becomes of bytes that are no UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Invalid {
    /// Each byte is one U+FFFD (sentencepiece).
    EachByte,
    /// The longest beginning of a character is one U+FFFD (Python, byte-level BPE).
    EachSequence,
    /// Where a run of byte tokens is not valid as a whole, each byte is one U+FFFD (`ByteFallback`
    /// of the `tokenizers` library).
    WholeRun,
}

/// What every token of a vocabulary shows, and how a text is put together from it.
pub(super) struct Decoder {
    data: Vec<u8>,
    spans: Vec<Span>,
    lead: Lead,
    invalid: Invalid,
    /// Whether spaces at both ends of a decoded text go.
    trim: bool,
}

#[derive(Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Byte,
    Bytes,
    Text,
    Spaced,
}

impl Decoder {
    pub fn new(lead: Lead, invalid: Invalid) -> Self {
        Decoder {
            data: Vec::new(),
            spans: Vec::new(),
            lead,
            invalid,
            trim: false,
        }
    }

    /// Spaces at both ends of what [`Decoder::decode`] returns go.
    pub fn trimmed(mut self) -> Self {
        self.trim = true;
        self
    }

    /// Says what the next id shows.
    pub fn push(&mut self, show: Show<'_>) {
        let start = self.data.len();
        let kind = match show {
            Show::Byte(byte) => {
                self.data.push(byte);
                Kind::Byte
            }
            Show::Bytes(bytes) => {
                self.data.extend(bytes);
                Kind::Bytes
            }
            Show::Text(text) => {
                self.data.extend(text.bytes());
                Kind::Text
            }
            Show::Spaced(text) => {
                self.data.extend(text.bytes());
                Kind::Spaced
            }
        };
        let end = self.data.len();
        self.spans.push(Span { start, end, kind });
    }

    fn span(&self, id: u32) -> (&[u8], Kind) {
        match self.spans.get(id as usize) {
            Some(span) => (&self.data[span.start..span.end], span.kind),
            None => (&[], Kind::Text),
        }
    }

    /// Whether the token shows anything.
    pub fn shows(&self, id: u32) -> bool {
        !self.span(id).0.is_empty()
    }

    /// The bytes that the token adds after what came before, and whether they may be part of a
    /// character with their neighbours'. `shown`: whether the text has anything in it yet.
    pub fn step(&self, id: u32, beginning: &mut Beginning, shown: bool) -> (Cow<'_, [u8]>, bool) {
        let (bytes, kind) = self.span(id);
        let first = !std::mem::replace(&mut beginning.any_token, true);
        if kind != Kind::Byte {
            beginning.over |= shown || beginning.space_gone;
        }
        let mut bytes = Cow::Borrowed(bytes);
        let rest = match bytes.strip_prefix(b" ") {
            Some(rest) if !beginning.over => Some(Cow::Owned(rest.to_vec())),
            _ => None,
        };
        match (self.lead, kind) {
            (Lead::One, Kind::Spaced) if rest.is_some() => beginning.space_gone = true,
            (Lead::Every, Kind::Spaced) => {}
            (Lead::WholeText, _) if !bytes.is_empty() && !beginning.over => beginning.over = true,
            (Lead::FirstToken, Kind::Spaced) if first && !beginning.over => {
                bytes.to_mut().retain(|&b| b != b' ');
                return (bytes, false);
            }
            _ => return (bytes, matches!(kind, Kind::Byte | Kind::Bytes)),
        }
        (
            rest.unwrap_or(bytes),
            matches!(kind, Kind::Byte | Kind::Bytes),
        )
    }

    /// The whole text of `ids`.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        let mut run = Vec::new();
        let mut beginning = Beginning::default();
        for &id in ids {
            let shown = !text.is_empty() || !run.is_empty();
            let (bytes, joins) = self.step(id, &mut beginning, shown);
            if joins {
                run.extend_from_slice(&bytes);
                continue;
            }
            self.resolve(&mut run, &mut text);
            // Tokens that show whole characters were taken as strings: this is UTF-8.
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
        self.resolve(&mut run, &mut text);
        if self.trim {
            return text.trim_matches(is_python_space).to_string();
        }
        text
    }

    fn resolve(&self, run: &mut Vec<u8>, text: &mut String) {
        let whole = self.invalid == Invalid::WholeRun;
        if whole && std::str::from_utf8(run).is_err() {
            text.extend(run.drain(..).map(|_| char::REPLACEMENT_CHARACTER));
            return;
        }
        for chunk in run.utf8_chunks() {
            text.push_str(chunk.valid());
            let bad = chunk.invalid().len();
            let marks = match self.invalid {
                Invalid::EachSequence => bad.min(1),
                _ => bad,
            };
            text.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, marks));
        }
        run.clear();
    }
}

/// Whether a text still waits for its first visible token.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Beginning {
    over: bool,
    space_gone: bool,
    any_token: bool,
}

impl Beginning {
    /// For a text that has begun before.
    pub fn over() -> Self {
        Beginning {
            over: true,
            ..Beginning::default()
        }
    }
}

/// What Python's `str.strip` takes off: White_Space and the four separators U+001C to U+001F.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
