//! sentencepiece's compiled character map: which strings normalisation replaces, and by what.
//!
//! The map is a double-array trie over UTF-8 (the layout of Darts-clone) whose values point into
//! a block of zero-terminated strings: `u32` bytes of trie, the trie's `u32` units, the block, all
//! little-endian. It comes from a file, so every step through it is checked.

use katari_gguf::keys::tokenizer as keys;

use super::TextError;

/// The most bytes of text that one rule replaces, and of what replaces it. Rules of real maps have
/// a few dozen (U+FDFA becomes 33 bytes); the limits keep a hostile map from costing more than a
/// fixed amount a character.
const MAX_RULE: usize = 512;

/// A compiled character map.
pub(super) struct CharsMap {
    units: Vec<u32>,
    replacements: String,
}

impl CharsMap {
    /// Checks the map's outer form.
    pub fn new(bytes: &[u8]) -> Result<CharsMap, TextError> {
        let broken = |message: String| TextError::value(keys::PRECOMPILED_CHARSMAP, message);
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
            return Err(broken(format!(
                "{} bytes (expected at least 4 for the trie's length)",
                bytes.len()
            )));
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || !length.is_multiple_of(4) || length >= rest.len() {
            return Err(broken(format!(
                "says its trie has {length} bytes, of {} that follow (expected a multiple of 4, and strings after it)",
                rest.len()
            )));
        }
        let (trie, strings) = rest.split_at(length);
        let replacements = match std::str::from_utf8(strings) {
            Ok(text) if text.ends_with('\0') => text.to_string(),
            Ok(_) => return Err(broken("its strings do not end with a zero byte".into())),
            Err(error) => return Err(broken(format!("its strings are no UTF-8: {error}"))),
        };
        if let Some(long) = replacements.split('\0').find(|r| r.len() > MAX_RULE) {
            return Err(broken(format!(
                "one of its strings has {} bytes (expected at most {MAX_RULE})",
                long.len()
            )));
        }
        let units = trie
            .chunks_exact(4)
            .map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]))
            .collect();
        Ok(CharsMap {
            units,
            replacements,
        })
    }

    /// The longest string of the map that begins `text`: its length and what replaces it. `None`
    /// as well where the map's value points nowhere.
    pub fn longest(&self, text: &[u8]) -> Option<(usize, &str)> {
        let mut best = None;
        let mut unit = *self.units.first()?;
        let mut at = offset(unit);
        for (i, &byte) in text.iter().take(MAX_RULE).enumerate() {
            at ^= usize::from(byte);
            match self.units.get(at) {
                Some(&next) if label(next) == u32::from(byte) => unit = next,
                _ => break,
            }
            at ^= offset(unit);
            if has_leaf(unit) {
                match self.units.get(at) {
                    Some(&leaf) => best = Some((i + 1, leaf & 0x7fff_ffff)),
                    None => break,
                }
            }
        }
        let (length, value) = best?;
        let replacement = self.replacements.get(value as usize..)?;
        Some((length, replacement.split('\0').next().unwrap_or_default()))
    }
}

/// How far a unit's children lie from it (xor).
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize
}

/// The byte a unit stands for; the top bit marks a value, which is no byte.
fn label(unit: u32) -> u32 {
    unit & ((1 << 31) | 0xff)
}

/// Whether a string of the map ends here.
fn has_leaf(unit: u32) -> bool {
    (unit >> 8) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lying_lengths_are_errors() {
        for bytes in [
            &[][..],
            &[1, 0, 0],
            &[4, 0, 0, 0],
            &[4, 0, 0, 0, 1, 2, 3, 4],
            &[3, 0, 0, 0, 1, 2, 3, 4, 0],
            &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0],
            &[4, 0, 0, 0, 0, 0, 0, 0, b'a'],
            &[4, 0, 0, 0, 0, 0, 0, 0, 0xff, 0],
        ] {
            assert!(CharsMap::new(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_neither_panics_nor_loops(
            units in prop::collection::vec(any::<u32>(), 1..64),
            strings in "[a-zあ-ん\0]{0,20}\0",
            text in "\\PC{0,40}",
        ) {
            let mut bytes = (units.len() as u32 * 4).to_le_bytes().to_vec();
            bytes.extend(units.iter().flat_map(|u| u.to_le_bytes()));
            bytes.extend(strings.bytes());
            let map = CharsMap::new(&bytes).unwrap();
            for at in 0..text.len() {
                if let Some((length, _)) = map.longest(&text.as_bytes()[at..]) {
                    prop_assert!(length > 0 && at + length <= text.len());
                }
            }
        }
    }
}
