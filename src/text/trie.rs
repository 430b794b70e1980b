//! A trie over bytes: which of many strings begin a text.

/// What a node without a value holds.
const NONE: u32 = u32::MAX;

/// One node. Its children lie side by side in order of their labels.
#[derive(Clone, Copy)]
struct Node {
    first_child: u32,
    n_children: u16,
    label: u8,
    value: u32,
}

/// A set of byte strings, each with a `u32` (not `u32::MAX`).
pub(super) struct Trie {
    nodes: Vec<Node>,
    /// The root's children by label, as most walks end right there; `NONE` where there is none.
    roots: Box<[u32; 256]>,
}

impl Trie {
    /// Of strings that stand twice the one with the largest value counts. Empty strings are left
    /// out.
    pub fn new<'a>(entries: impl IntoIterator<Item = (&'a [u8], u32)>) -> Trie {
        let mut entries: Vec<(&[u8], u32)> =
            entries.into_iter().filter(|(k, _)| !k.is_empty()).collect();
        entries.sort_unstable();

        let root = Node {
            first_child: 0,
            n_children: 0,
            label: 0,
            value: NONE,
        };
        let mut nodes = vec![root];
        // Breadth first: a node's entries are a range that share its prefix of length `depth`.
        let mut ranges = vec![(0, entries.len())];
        let mut next = 0;
        let mut depth = 0;
        while next < nodes.len() {
            let level = next..nodes.len();
            next = level.end;
            for node in level {
                let (mut start, end) = ranges[node];
                while start < end && entries[start].0.len() == depth {
                    nodes[node].value = entries[start].1;
                    start += 1;
                }
                nodes[node].first_child = nodes.len() as u32;
                while start < end {
                    let label = entries[start].0[depth];
                    let same = entries[start..end].partition_point(|(key, _)| key[depth] <= label);
                    nodes.push(Node { label, ..root });
                    ranges.push((start, start + same));
                    nodes[node].n_children += 1;
                    start += same;
                }
            }
            depth += 1;
        }
        let mut roots = Box::new([NONE; 256]);
        let top = nodes[0];
        for child in top.first_child..top.first_child + u32::from(top.n_children) {
            roots[nodes[child as usize].label as usize] = child;
        }
        Trie { nodes, roots }
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// Every string of the set that begins `text`: its length and value, shortest first.
    pub fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut node = None;
        let mut depth = 0;
        std::iter::from_fn(move || {
            loop {
                let &byte = text.get(depth)?;
                let child = match node {
                    None => self.roots[byte as usize],
                    Some(node) => self.child(node, byte),
                };
                if child == NONE {
                    return None;
                }
                depth += 1;
                node = Some(child);
                let value = self.nodes[child as usize].value;
                if value != NONE {
                    return Some((depth, value));
                }
            }
        })
    }

    /// The longest string of the set that begins `text`: its length and value.
    pub fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        self.prefixes(text).last()
    }

    /// The value of exactly this string.
    pub fn get(&self, name: &str) -> Option<u32> {
        let (length, value) = self.prefixes(name.as_bytes()).last()?;
        (length == name.len()).then_some(value)
    }

    fn child(&self, node: u32, byte: u8) -> u32 {
        let node = self.nodes[node as usize];
        let first = node.first_child as usize;
        let children = &self.nodes[first..first + usize::from(node.n_children)];
        match children.binary_search_by_key(&byte, |child| child.label) {
            Ok(i) => (first + i) as u32,
            Err(_) => NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_prefix_shortest_first() {
        let words: [(&[u8], u32); 5] = [(b"abc", 3), (b"a", 1), (b"ab", 2), (b"b", 9), (b"", 7)];
        let trie = Trie::new(words);
        let found: Vec<_> = trie.prefixes(b"abcd").collect();
        assert_eq!(found, [(1, 1), (2, 2), (3, 3)]);
        assert_eq!(trie.longest(b"abx"), Some((2, 2)));
        assert_eq!(trie.longest(b"x"), None);
        assert_eq!(trie.longest(b""), None);
        assert!(Trie::new([]).is_empty());
    }

    #[test]
    fn of_equal_strings_the_largest_value_counts() {
        let trie = Trie::new([(b"a".as_slice(), 2), (b"a".as_slice(), 1)]);
        assert_eq!(trie.longest(b"a"), Some((1, 2)));
    }
}
