//! Grammars as llama.cpp writes them (GBNF), put into llguidance's Lark.
//!
//! <https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md>
//!
//! GBNF knows characters only. llguidance reads tokens of the grammar (terminals, the longest
//! that match) and puts these together. So a rule that leads back to no rule of a circle becomes
//! one terminal, a regular expression, which is exact; in the others each longest run of what is
//! regular does. There a text that could be read with a shorter terminal is not allowed where a
//! longer one goes on: less is allowed than the grammar says, never more.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

use super::ConstrainError;

/// Parentheses within parentheses.
const MAX_DEPTH: usize = 50;
/// Rules of a grammar.
const MAX_RULES: usize = 1000;
/// What a regular expression holds within each other, the rules it names among it: llguidance
/// goes down it by recursion.
const MAX_REGEX_DEPTH: usize = 400;
/// Of `{m,n}`.
const MAX_REPEAT: u32 = 2000;

/// What a place of a text may be.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// One after the other.
    Sequence(Vec<Node>),
    /// One of them.
    Choice(Vec<Node>),
    /// So often.
    Repeat(Box<Node>, u32, Option<u32>),
    /// A character within these ranges, or within none of them.
    Class(Vec<(char, char)>, bool),
    /// These characters.
    Literal(String),
    /// What the rule says.
    Rule(usize),
}

impl Node {
    /// The rules that it names.
    fn names(&self, names: &mut BTreeSet<usize>) {
        match self {
            Node::Sequence(list) | Node::Choice(list) => {
                list.iter().for_each(|node| node.names(names));
            }
            Node::Repeat(node, _, _) => node.names(names),
            Node::Class(..) | Node::Literal(_) => {}
            Node::Rule(i) => {
                names.insert(*i);
            }
        }
    }

    /// How deep it is, given how deep rules are.
    fn depth(&self, rules: &[usize]) -> usize {
        match self {
            Node::Sequence(list) | Node::Choice(list) => {
                1 + list.iter().map(|node| node.depth(rules)).max().unwrap_or(0)
            }
            Node::Repeat(node, _, _) => 1 + node.depth(rules),
            Node::Class(..) | Node::Literal(_) => 1,
            Node::Rule(i) => 1 + rules.get(*i).copied().unwrap_or(0),
        }
    }

    /// Whether it is a regular expression, given which rules are.
    fn is_regular(&self, rules: &[bool]) -> bool {
        match self {
            Node::Sequence(list) | Node::Choice(list) => {
                list.iter().all(|node| node.is_regular(rules))
            }
            Node::Repeat(node, _, _) => node.is_regular(rules),
            Node::Class(..) | Node::Literal(_) => true,
            Node::Rule(i) => rules.get(*i).copied().unwrap_or(false),
        }
    }
}

/// The same language in Lark.
pub fn to_lark(text: &str) -> Result<String, ConstrainError> {
    let mut parser = Parser {
        rest: text,
        line: 1,
        names: HashMap::new(),
        rules: Vec::new(),
    };
    let root = parser.rule_number("root")?;
    parser.grammar()?;
    let mut bodies = Vec::new();
    for (i, (name, line, body)) in parser.rules.into_iter().enumerate() {
        match body {
            Some(body) => bodies.push(body),
            None if i == root => {
                return Err(fault(parser.line, "the grammar has no rule named root"));
            }
            None => return Err(fault(line, format!("there is no rule named {name}"))),
        }
    }
    let regular = regular(&bodies)?;
    let mut lark = Lark {
        regular,
        out: String::new(),
        n_groups: 0,
    };
    for (i, body) in bodies.iter().enumerate() {
        let mut out = String::new();
        if lark.regular[i] {
            lark.regex(body, &mut out);
            let _ = writeln!(lark.out, "T{i}: {out}");
        } else {
            lark.rule(body, &mut out);
            let _ = writeln!(lark.out, "r{i}: {out}");
        }
    }
    let name = if lark.regular[root] { 'T' } else { 'r' };
    Ok(format!("start: {name}{root}\n{}", lark.out))
}

/// Which rules are regular: those that name regular rules only, from the ones that name none.
fn regular(bodies: &[Node]) -> Result<Vec<bool>, ConstrainError> {
    let mut regular = vec![false; bodies.len()];
    let mut depths = vec![0; bodies.len()];
    // How many rules each names that are not known to be regular, and by which each is named.
    let mut left = vec![0; bodies.len()];
    let mut named_by = vec![Vec::new(); bodies.len()];
    for (i, body) in bodies.iter().enumerate() {
        let mut names = BTreeSet::new();
        body.names(&mut names);
        left[i] = names.len();
        names.into_iter().for_each(|name| named_by[name].push(i));
    }
    let mut found: Vec<usize> = (0..bodies.len()).filter(|&i| left[i] == 0).collect();
    while let Some(i) = found.pop() {
        regular[i] = true;
        depths[i] = bodies[i].depth(&depths);
        if depths[i] > MAX_REGEX_DEPTH {
            let message =
                format!("the rules lead on to each other more than {MAX_REGEX_DEPTH} deep");
            return Err(ConstrainError::Rule(message));
        }
        for &by in &named_by[i] {
            left[by] -= 1;
            if left[by] == 0 {
                found.push(by);
            }
        }
    }
    Ok(regular)
}

fn fault(line: usize, message: impl Into<String>) -> ConstrainError {
    ConstrainError::Grammar {
        line,
        message: message.into(),
    }
}

/// Writes Lark. What GBNF has in parentheses becomes a definition of its own.
struct Lark {
    regular: Vec<bool>,
    /// Definitions.
    out: String,
    n_groups: usize,
}

impl Lark {
    /// Appends `node`, which is regular, as an expression of a terminal.
    fn regex(&mut self, node: &Node, out: &mut String) {
        match node {
            Node::Sequence(list) if list.is_empty() => out.push_str("\"\""),
            Node::Sequence(list) => {
                for node in list {
                    out.push(' ');
                    self.regex_group(node, out);
                }
            }
            Node::Choice(list) => {
                for (i, node) in list.iter().enumerate() {
                    out.push_str(if i > 0 { " | " } else { "" });
                    self.regex_group(node, out);
                }
            }
            Node::Repeat(node, min, max) => {
                self.regex_group(node, out);
                out.push_str(&times(*min, *max));
            }
            // Of an empty class nothing is a member, so anything is of its complement.
            Node::Class(ranges, _) if ranges.is_empty() => out.push_str(r"/(?s:.)/"),
            Node::Class(ranges, negated) => {
                out.push_str(if *negated { "/[^" } else { "/[" });
                for (first, last) in ranges {
                    escape(*first, out);
                    out.push('-');
                    escape(*last, out);
                }
                out.push_str("]/");
            }
            Node::Literal(text) if text.is_empty() => out.push_str("\"\""),
            Node::Literal(text) => {
                out.push('/');
                text.chars().for_each(|c| escape(c, out));
                out.push('/');
            }
            Node::Rule(i) => {
                let _ = write!(out, "T{i}");
            }
        }
    }

    /// The same as one thing that may be repeated, say.
    fn regex_group(&mut self, node: &Node, out: &mut String) {
        match node {
            Node::Class(..) | Node::Literal(_) | Node::Rule(_) => self.regex(node, out),
            Node::Sequence(_) | Node::Choice(_) | Node::Repeat(..) => {
                let mut body = String::new();
                self.regex(node, &mut body);
                self.define('R', &body, out);
            }
        }
    }

    /// Appends `node`, which is not regular, as an expression of a rule.
    fn rule(&mut self, node: &Node, out: &mut String) {
        match node {
            Node::Sequence(list) => {
                let mut rest = list.as_slice();
                while let Some(first) = rest.first() {
                    out.push(' ');
                    let regular = |node: &&Node| node.is_regular(&self.regular);
                    let n = rest.iter().take_while(regular).count();
                    match n {
                        0 => self.rule_group(first, out),
                        1 => self.regex_group(first, out),
                        n => self.regex_group(&Node::Sequence(rest[..n].to_vec()), out),
                    }
                    rest = &rest[n.max(1)..];
                }
            }
            Node::Choice(list) => {
                for (i, node) in list.iter().enumerate() {
                    out.push_str(if i > 0 { " | " } else { "" });
                    self.rule_group(node, out);
                }
            }
            Node::Repeat(node, min, max) => {
                self.rule_group(node, out);
                out.push_str(&times(*min, *max));
            }
            Node::Rule(i) => {
                let _ = write!(out, "r{i}");
            }
            // They are regular.
            Node::Class(..) | Node::Literal(_) => {}
        }
    }

    /// The same as one thing, which may be regular.
    fn rule_group(&mut self, node: &Node, out: &mut String) {
        if node.is_regular(&self.regular) {
            return self.regex_group(node, out);
        }
        match node {
            Node::Rule(_) => self.rule(node, out),
            _ => {
                let mut body = String::new();
                self.rule(node, &mut body);
                self.define('g', &body, out);
            }
        }
    }

    /// Defines a name that begins with `kind`, and appends it.
    fn define(&mut self, kind: char, body: &str, out: &mut String) {
        let name = format!("{kind}{}", self.n_groups);
        self.n_groups += 1;
        let _ = writeln!(self.out, "{name}: {body}");
        out.push_str(&name);
    }
}

fn times(min: u32, max: Option<u32>) -> String {
    match (min, max) {
        (0, None) => "*".into(),
        (1, None) => "+".into(),
        (0, Some(1)) => "?".into(),
        (min, None) => format!("{{{min},}}"),
        (min, Some(max)) => format!("{{{min},{max}}}"),
    }
}

/// A character as a regular expression has it.
fn escape(c: char, out: &mut String) {
    let _ = match c.is_ascii_alphanumeric() {
        true => write!(out, "{c}"),
        false => write!(out, "\\u{{{:X}}}", u32::from(c)),
    };
}

/// Reads GBNF.
struct Parser<'a> {
    rest: &'a str,
    line: usize,
    names: HashMap<String, usize>,
    /// Each with the line it is first named in.
    rules: Vec<(String, usize, Option<Node>)>,
}

impl Parser<'_> {
    fn rule_number(&mut self, name: &str) -> Result<usize, ConstrainError> {
        if let Some(&i) = self.names.get(name) {
            return Ok(i);
        }
        let i = self.rules.len();
        if i == MAX_RULES {
            return Err(self.fault(format!("found more than {MAX_RULES} rules")));
        }
        self.names.insert(name.into(), i);
        self.rules.push((name.into(), self.line, None));
        Ok(i)
    }

    fn fault(&self, message: impl Into<String>) -> ConstrainError {
        fault(self.line, message)
    }

    fn expected(&self, what: &str) -> ConstrainError {
        let found = match self.rest.chars().next() {
            None => "the end".into(),
            Some('\n' | '\r') => "the line's end".into(),
            Some(_) => format!("{:?}", self.rest.chars().take(20).collect::<String>()),
        };
        self.fault(format!("found {found}, expected {what}"))
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn take(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.next();
        }
        found
    }

    /// Spaces and comments; line breaks too where `lines` says so.
    fn space(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => {}
                '\n' | '\r' if lines => {}
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.next();
                    }
                    continue;
                }
                _ => return,
            }
            self.next();
        }
    }

    fn name(&mut self) -> Option<String> {
        let of_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let end = self.rest.find(|c| !of_name(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(name.to_string()).filter(|name| !name.is_empty())
    }

    fn grammar(&mut self) -> Result<(), ConstrainError> {
        self.space(true);
        while !self.rest.is_empty() {
            let name = self.name().ok_or_else(|| self.expected("a rule's name"))?;
            self.space(false);
            self.rest = (self.rest.strip_prefix("::="))
                .ok_or_else(|| self.expected(&format!("::= after {name}")))?;
            self.space(true);
            let i = self.rule_number(&name)?;
            let body = self.choice(0)?;
            if !matches!(self.peek(), None | Some('\n' | '\r')) {
                return Err(self.expected("the end of the rule"));
            }
            // Of two rules of one name the later counts, as in llama.cpp.
            if let Some((_, _, slot)) = self.rules.get_mut(i) {
                *slot = Some(body);
            }
            self.space(true);
        }
        Ok(())
    }

    /// What `|` separates; line breaks may stand anywhere inside parentheses.
    fn choice(&mut self, depth: usize) -> Result<Node, ConstrainError> {
        if depth > MAX_DEPTH {
            return Err(self.fault(format!(
                "found more than {MAX_DEPTH} parentheses within each other"
            )));
        }
        let mut list = vec![self.sequence(depth)?];
        loop {
            // A line that begins with a bar goes on.
            let (rest, line) = (self.rest, self.line);
            self.space(true);
            if !self.take('|') {
                (self.rest, self.line) = (rest, line);
                break;
            }
            self.space(true);
            list.push(self.sequence(depth)?);
        }
        Ok(match list.len() {
            1 => list.remove(0),
            _ => Node::Choice(list),
        })
    }

    fn sequence(&mut self, depth: usize) -> Result<Node, ConstrainError> {
        let mut list = Vec::new();
        loop {
            self.space(depth > 0);
            let node = match self.peek() {
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('.') => {
                    self.next();
                    Node::Class(Vec::new(), true)
                }
                Some('(') => {
                    self.next();
                    self.space(true);
                    let node = self.choice(depth + 1)?;
                    self.space(true);
                    if !self.take(')') {
                        return Err(self.expected("')'"));
                    }
                    node
                }
                Some('<') => {
                    return Err(self.expected("characters (tokens by name are not supported)"));
                }
                _ => match self.name() {
                    Some(name) => Node::Rule(self.rule_number(&name)?),
                    None => break,
                },
            };
            self.space(false);
            list.push(self.repeated(node)?);
        }
        Ok(match list.len() {
            1 => list.remove(0),
            _ => Node::Sequence(list),
        })
    }

    fn repeated(&mut self, node: Node) -> Result<Node, ConstrainError> {
        let (min, max) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                self.next();
                let min = self.number()?;
                let max = match self.take(',') {
                    true => self.number()?,
                    false => min,
                };
                if self.peek() != Some('}') {
                    return Err(self.expected("{m}, {m,}, {,n} or {m,n}"));
                }
                match (min, max) {
                    (None, None) => return Err(self.expected("a number before")),
                    (Some(min), Some(max)) if min > max => {
                        return Err(self.fault(format!("found {{{min},{max}}}, expected m <= n")));
                    }
                    (min, max) => (min.unwrap_or(0), max),
                }
            }
            _ => return Ok(node),
        };
        self.next();
        self.space(false);
        let node = Node::Repeat(Box::new(node), min, max);
        match self.peek() {
            // One repetition of another would be as deep as the line is long.
            Some('*' | '+' | '?' | '{') => Err(self.expected("one repetition; use parentheses")),
            _ => Ok(node),
        }
    }

    fn number(&mut self) -> Result<Option<u32>, ConstrainError> {
        self.space(false);
        let digits = self.rest.find(|c: char| !c.is_ascii_digit());
        let (digits, rest) = self.rest.split_at(digits.unwrap_or(self.rest.len()));
        if digits.is_empty() {
            return Ok(None);
        }
        let number = digits.parse().ok().filter(|n| *n <= MAX_REPEAT);
        let number = number
            .ok_or_else(|| self.expected(&format!("a number of times, at most {MAX_REPEAT}")))?;
        self.rest = rest;
        self.space(false);
        Ok(Some(number))
    }

    fn literal(&mut self) -> Result<Node, ConstrainError> {
        self.next();
        let mut text = String::new();
        while !self.take('"') {
            text.push(self.character("'\"'")?);
        }
        Ok(Node::Literal(text))
    }

    fn class(&mut self) -> Result<Node, ConstrainError> {
        self.next();
        let negated = self.take('^');
        let mut ranges = Vec::new();
        while !self.take(']') {
            let first = self.character("']'")?;
            let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            let last = match is_range {
                true => {
                    self.next();
                    self.character("']'")?
                }
                false => first,
            };
            if last < first {
                return Err(self.fault(format!(
                    "found the range {first:?} to {last:?}, which is empty"
                )));
            }
            ranges.push((first, last));
        }
        match ranges.is_empty() && !negated {
            true => Err(self.fault("found [], which no character is in")),
            false => Ok(Node::Class(ranges, negated)),
        }
    }

    /// A character of a literal or class that ends with `end`.
    fn character(&mut self, end: &str) -> Result<char, ConstrainError> {
        let c = match self.peek() {
            None | Some('\n' | '\r') => return Err(self.expected(end)),
            Some(c) => c,
        };
        if c != '\\' {
            self.next();
            return Ok(c);
        }
        self.next();
        const ESCAPES: &str = r#"one of \n \r \t \\ \" \[ \] \- \^ \x41 \u3042 \U00003042"#;
        let n_digits = match self.peek() {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            other => {
                let c = match other {
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^' | '/' | '\'')) => c,
                    _ => return Err(self.expected(ESCAPES)),
                };
                self.next();
                return Ok(c);
            }
        };
        let digits = self.rest.get(1..=n_digits);
        let digits = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let number = digits.and_then(|d| u32::from_str_radix(d, 16).ok());
        let c = number.and_then(char::from_u32);
        let c = c.ok_or_else(|| self.expected("the digits of a character"))?;
        self.rest = &self.rest[1 + n_digits..];
        Ok(c)
    }
}
