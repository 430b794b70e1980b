//! Constrained texts: with every kind of tokenizer and nonsense for logits, whatever comes to
//! its end satisfies the rule, and whatever satisfies the rule may come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use katari::constrain::{Rule, Vocabulary};
use katari::sampler::{Constraint, Next, Over, Params, Sampler};
use katari::text::{SpecialTokens, Tokenizer};
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::tokenizers::every_kind;

/// Beyond it a text counts as one that does not end.
const MAX_TOKENS: usize = 1_000;

/// What reading a rule may take, in a build without optimisation of its dependencies too.
const SOON: Duration = Duration::from_secs(10);

/// A text drawn from logits that `seed` makes; `None` where it comes to no end.
fn write(
    tokenizer: &Tokenizer,
    constraint: &dyn Constraint,
    seed: u64,
    params: &Params,
) -> Option<String> {
    let drawable: Arc<[bool]> = (0..tokenizer.len() as u32)
        .map(|id| tokenizer.is_drawable(id))
        .collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut sampler = Sampler::new(params.clone(), drawable.clone(), seed)
        .unwrap()
        .constrained(Some(constraint.boxed()));
    let (mut ids, mut logits) = (vec![0], vec![0.0; drawable.len()]);
    for _ in 0..MAX_TOKENS {
        logits.fill_with(|| rng.random_range(-4.0..4.0f32));
        match sampler.sample(&logits, &ids, 1) {
            Some(id) if params.eos.contains(&id) => return Some(text(tokenizer, &ids[1..])),
            Some(id) => ids.push(id),
            None => {
                assert_eq!(sampler.over(), Some(&Over::Whole), "{ids:?}");
                return Some(text(tokenizer, &ids[1..]));
            }
        }
    }
    None
}

/// As it goes on from a prompt.
fn text(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let visible = tokenizer.encode("a", SpecialTokens::AsText);
    let mut stream = tokenizer.stream_after(&visible);
    ids.iter().map(|&id| stream.push(id).to_string()).collect()
}

fn params(tokenizer: &Tokenizer) -> Params {
    // Any token will do, since what it shows does not count.
    Params {
        eos: vec![tokenizer.eos().unwrap_or(0)],
        top_k: 200,
        ..Params::default()
    }
}

/// Whether it can write every character. One that cannot may never find an end.
fn has_bytes(tokenizer: &Tokenizer) -> bool {
    (0..tokenizer.len() as u32).any(|id| tokenizer.token_bytes(id) == [0xe3])
}

/// Texts of `rule` from every tokenizer, of which some must end; `check` looks at them.
fn texts(rule: &Rule, mut check: impl FnMut(&str) -> bool) {
    for (name, tokenizer) in every_kind() {
        if !has_bytes(&tokenizer) {
            continue;
        }
        let vocabulary = Vocabulary::new(&tokenizer).unwrap();
        let constraint = vocabulary.constraint(rule).unwrap();
        let params = params(&tokenizer);
        let mut ended = 0;
        for seed in 0..12 {
            if let Some(text) = write(&tokenizer, constraint.as_ref(), seed, &params) {
                assert!(check(&text), "{name}, seed {seed}: {text}");
                ended += 1;
            }
        }
        assert!(
            ended > 2,
            "{name}: {ended} texts of {rule:?} came to their end"
        );
    }
}

fn grammar(text: &str) -> Rule {
    Rule::Grammar(text.into())
}

/// Whether `constraint` allows exactly this text.
fn allows(tokenizer: &Tokenizer, constraint: &dyn Constraint, text: &str) -> bool {
    let mut constraint = constraint.boxed();
    // What precedes it is cut off, since some tokenizers put a space before a text.
    let without = |before: &str| {
        let all = tokenizer.ids_of_lines(&format!("{before}{text}"), SpecialTokens::AsText);
        let before = tokenizer.encode(before, SpecialTokens::AsText);
        all.strip_prefix(before.as_slice()).map(<[u32]>::to_vec)
    };
    let ids = ["。", "a", "猫"].into_iter().find_map(without);
    let ids = ids.unwrap_or_else(|| panic!("{text:?} merges with what precedes it"));
    for id in ids {
        match constraint.next().unwrap() {
            Next::Tokens { allowed, .. } if allowed[id as usize / 32] >> (id % 32) & 1 == 1 => {}
            _ => return false,
        }
        constraint.take(id);
    }
    matches!(
        constraint.next().unwrap(),
        Next::End | Next::Tokens { may_end: true, .. }
    )
}

#[test]
fn what_a_schema_asks_for_is_written() {
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["名前", "age", "tags"],
        "properties": {
            "名前": {"type": "string", "maxLength": 6},
            "age": {"type": "integer", "minimum": 3, "maximum": 120},
            "tags": {"type": "array", "maxItems": 3, "items": {"enum": ["猫", "dog", 1]}},
            "size": {"$ref": "#/$defs/size"},
        },
        "$defs": {"size": {"anyOf": [{"type": "null"}, {"type": "boolean"}]}},
    });
    texts(&Rule::JsonSchema(schema), |text| {
        let Ok(Value::Object(found)) = serde_json::from_str(text) else {
            return false;
        };
        let tags = found["tags"].as_array().unwrap();
        let known = ["名前", "age", "tags", "size"];
        found["名前"].as_str().unwrap().chars().count() <= 6
            && (3..=120).contains(&found["age"].as_u64().unwrap())
            && tags.len() <= 3
            && (tags.iter()).all(|tag| [json!("猫"), json!("dog"), json!(1)].contains(tag))
            && (found.get("size")).is_none_or(|size| size.is_null() || size.is_boolean())
            && found.keys().all(|key| known.contains(&key.as_str()))
    });
}

#[test]
fn json_is_an_object() {
    // Nonsense for logits leaves few keys without an end; most texts do end.
    texts(&Rule::JsonObject, |text| {
        match serde_json::from_str(text) {
            Ok(value) => matches!(value, Value::Object(_)),
            // JSON has numbers of any size.
            Err(error) => error.to_string().contains("number out of range"),
        }
    });
}

#[test]
fn what_a_grammar_says_is_written() {
    texts(
        &grammar("root ::= (\"はい\" | \"いいえ\")+ [。!]?"),
        |text| {
            let rest = text.replace("いいえ", "").replace("はい", "");
            !text.is_empty() && ["", "。", "!"].contains(&rest.as_str())
        },
    );
    let list = r##"
        # A list, with a comment "(
        root ::= item{2,4}
        item ::= (
          "- " [^\n\u3000-\u303f]{1,5}   # not of these
          "\n"
        )
        "##;
    texts(&grammar(list), |text| {
        let lines: Vec<&str> = text.split_terminator('\n').collect();
        let good = |line: &&str| {
            let rest = line.strip_prefix("- ").unwrap_or_default();
            let other = |c| !('\u{3000}'..='\u{303f}').contains(&c);
            (1..=5).contains(&rest.chars().count()) && rest.chars().all(other)
        };
        text.ends_with('\n') && (2..=4).contains(&lines.len()) && lines.iter().all(good)
    });
}

/// `root` leads back to itself.
const SUMS: &str = r#"
    root ::= sum
    sum  ::= term ( [-+] term ){0,3}
    term ::= [0-9]{1,2} | "(" sum ")"
"#;

#[test]
fn rules_may_lead_back_to_themselves() {
    fn sum(text: &mut &str) -> bool {
        loop {
            if let Some(rest) = text.strip_prefix('(') {
                *text = rest;
                if !sum(text) || !text.starts_with(')') {
                    return false;
                }
                *text = &text[1..];
            } else {
                let digits = text.chars().take_while(char::is_ascii_digit).count();
                if !(1..=2).contains(&digits) {
                    return false;
                }
                *text = &text[digits..];
            }
            match text.strip_prefix(['-', '+']) {
                Some(rest) => *text = rest,
                None => return true,
            }
        }
    }
    texts(&grammar(SUMS), |mut text| sum(&mut text) && text.is_empty());
}

#[test]
fn what_a_rule_says_is_allowed_and_nothing_else() {
    let json = r#"
        root ::= value
        value ::= object | array | string | number | ("true" | "false" | "null")
        object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? ws "}"
        array ::= "[" ws ( value ("," ws value)* )? ws "]"
        string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}) )* "\""
        number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,3})?
        ws ::= ( [ \t\n] ws )?
    "#;
    let object = r#"{"a": [1, 2.5e3, "猫\n", {}], "b": null}"#;
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let cases: [(Rule, &[&str], &[&str]); 8] = [
        (
            grammar(json),
            &["{}", "[]", "\"\"", "-1", object, "[[[[]]]]", "{\n}"],
            &["", "{", "[1,]", "01", "tru", "\"\n\"", "{} "],
        ),
        (
            grammar(SUMS),
            &["1", "(1+2)-33", "((1))"],
            &["1+", "(1", "123", "1+1+1+1+1"],
        ),
        (
            grammar("root ::= \"a\"* [b-d^-] |\n  .{2}"),
            &["b", "aad", "^", "-", "猫犬"],
            &["aaa", "e"],
        ),
        (
            grammar("root ::= x | \"\\x41\\u3042\\U0001F408\\\"\"\nx ::= ((\"x\")){2,}"),
            &["xx", "xxxx", "Aあ🐈\""],
            &["x", "A"],
        ),
        (
            grammar("root ::= \"\" | \"q\" root"),
            &["", "q", "qqq"],
            &["p", "qp"],
        ),
        (
            Rule::JsonObject,
            &["{}", r#"{"a": [null]}"#],
            &["[]", "1", "{}}"],
        ),
        (
            Rule::JsonSchema(schema),
            &["{}", r#"{"a":"b","c":2}"#],
            &[r#"{"a":1}"#, "[]"],
        ),
        (
            Rule::JsonSchema(json!({})),
            &["1", "[]", "null", object],
            &["{", ""],
        ),
    ];
    for (name, tokenizer) in every_kind() {
        if name.ends_with("swe-small") || !has_bytes(&tokenizer) {
            // Its encoding changes characters, or cannot write them.
            continue;
        }
        let vocabulary = Vocabulary::new(&tokenizer).unwrap();
        for (rule, good, bad) in &cases {
            let constraint = vocabulary.constraint(rule).unwrap();
            for (list, expected) in [(good, true), (bad, false)] {
                for text in *list {
                    let found = allows(&tokenizer, constraint.as_ref(), text);
                    assert_eq!(found, expected, "{name}: {rule:?}: {text:?}");
                }
            }
        }
    }
}

fn demo() -> (Tokenizer, Vocabulary) {
    let (_, tokenizer) = every_kind().remove(0);
    let vocabulary = Vocabulary::new(&tokenizer).unwrap();
    (tokenizer, vocabulary)
}

/// However likely they are, and whatever the text's end is said to do.
#[test]
fn nothing_else_is_ever_drawn() {
    let (tokenizer, vocabulary) = demo();
    let constraint = vocabulary
        .constraint(&grammar("root ::= \"猫\" | \"犬\""))
        .unwrap();
    let [cat, dog] = ["猫", "犬"].map(|text| tokenizer.id(text).unwrap());
    let mut greedy = params(&tokenizer);
    (greedy.temperature, greedy.top_k) = (0.0, 1);
    for ignore_eos in [false, true] {
        greedy.ignore_eos = ignore_eos;
        greedy.min_new_tokens = 50;
        let drawable: Arc<[bool]> = vec![true; tokenizer.len()].into();
        let sampler = Sampler::new(greedy.clone(), drawable, 0).unwrap();
        let mut sampler = sampler.constrained(Some(constraint.boxed()));
        let mut logits = vec![30.0; tokenizer.len()];
        (logits[cat as usize], logits[dog as usize]) = (-20.0, -19.0);
        let mut ids = vec![0];
        while let Some(id) = sampler.sample(&logits, &ids, 1) {
            ids.push(id);
        }
        assert_eq!(sampler.over(), Some(&Over::Whole));
        let text = text(&tokenizer, &ids[1..]);
        assert!(["猫", "犬"].contains(&text.as_str()), "{text:?}");
    }
}

#[test]
fn copies_go_their_own_ways() {
    let (tokenizer, vocabulary) = demo();
    let rule = Rule::JsonSchema(json!({"enum": ["猫である", "犬である"]}));
    let constraint = vocabulary.constraint(&rule).unwrap();
    let params = params(&tokenizer);
    let one = |seed| write(&tokenizer, constraint.as_ref(), seed, &params).unwrap();
    let found: Vec<String> = (0..20).map(one).collect();
    assert_eq!(found, (0..20).map(one).collect::<Vec<_>>());
    assert!(found.iter().any(|t| *t != found[0]), "{found:?}");
}

#[test]
fn what_is_wrong_is_said() {
    let (_, vocabulary) = demo();
    for (text, message) in [
        (
            "",
            "line 1 of the grammar: the grammar has no rule named root",
        ),
        ("a ::= \"b\"", "the grammar has no rule named root"),
        (
            "root ::= a\n\n",
            "line 1 of the grammar: there is no rule named a",
        ),
        (
            "root := \"a\"",
            "found \":= \\\"a\\\"\", expected ::= after root",
        ),
        ("root ::= \"a", "found the end, expected '\"'"),
        (
            "root ::= [a\n]",
            "line 1 of the grammar: found the line's end, expected ']'",
        ),
        (
            "\nroot ::= (\"a\"",
            "line 2 of the grammar: found the end, expected ')'",
        ),
        (
            "root ::= \"a\" )",
            "found \")\", expected the end of the rule",
        ),
        ("root ::= \"\\q\"", "expected one of"),
        ("root ::= \"\\u+123\"", "expected the digits of a character"),
        ("root ::= \"\\ud800\"", "expected the digits of a character"),
        (
            "root ::= [z-a]",
            "found the range 'z' to 'a', which is empty",
        ),
        ("root ::= []", "which no character is in"),
        ("root ::= \"a\"{3,2}", "found {3,2}, expected m <= n"),
        (
            "root ::= \"a\"{99999999999}",
            "expected a number of times, at most 2000",
        ),
        ("root ::= \"a\"**", "expected one repetition"),
        ("root ::= <think>", "tokens by name are not supported"),
        ("=", "found \"=\", expected a rule's name"),
    ] {
        let error = vocabulary
            .constraint(&grammar(text))
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{error:?}");
    }
    for (schema, message) in [
        (json!({"type": "unheard"}), "unheard"),
        (
            json!({"type": "object", "unevaluatedProperties": 3}),
            "unevaluatedProperties",
        ),
        (json!({"$ref": "#/nowhere"}), "nowhere"),
        (json!({"$ref": "https://example.org/schema"}), "example.org"),
        (json!({"type": "string", "pattern": "("}), "("),
        (
            json!({"type": "integer", "minimum": 3, "maximum": 2}),
            "nsatisfiable",
        ),
        (
            json!({"x-guidance": {"lenient": true}, "type": "unheard"}),
            "unheard",
        ),
        (json!([1]), "expected a JSON schema"),
        (json!(false), "expected a JSON schema"),
    ] {
        let error = vocabulary.constraint(&Rule::JsonSchema(schema.clone()));
        let error = error
            .err()
            .unwrap_or_else(|| panic!("{schema} passes"))
            .to_string();
        assert!(error.contains(message), "{schema}: {error}");
        assert!(!error.contains("panic") && error.len() < 2_000, "{error:?}");
    }
}

/// None takes long, much memory or the stack: an error, or texts after all.
#[test]
fn hostile_rules_end_soon() {
    let (tokenizer, vocabulary) = demo();
    let nested = |n: usize| {
        let mut schema = json!({"type": "string"});
        for _ in 0..n {
            schema = json!({"type": "array", "items": schema});
        }
        Rule::JsonSchema(schema)
    };
    let doubling = |n: usize| {
        let rules = (0..n).map(|i| format!("a{i} ::= a{} a{}\n", i + 1, i + 1));
        let rules: String = rules.collect();
        grammar(&format!("root ::= a0\n{rules}a{n} ::= \"x\"\n"))
    };
    let names = (0..3_000).map(|i| format!("r{i} ::= \"a\"\n"));
    // A long way of rules to a last one.
    let chain = |n: usize, last: &str| {
        let rules: String = (0..n)
            .map(|i| format!("r{i} ::= (\"a\" r{})?\n", i + 1))
            .collect();
        grammar(&format!("root ::= r0\n{rules}r{n} ::= {last}"))
    };
    let keys = (0..3_000).map(|i| (format!("key{i}"), json!({"type": "string"})));
    let keys: serde_json::Map<String, Value> = keys.collect();
    let rules = [
        grammar(&"a".repeat(1 << 20)),
        grammar(&format!(
            "root ::= {}\"a\"{}",
            "(".repeat(100_000),
            ")".repeat(100_000)
        )),
        grammar(&format!(
            "root ::= {}\"a\"{}",
            "(".repeat(50),
            ")*".repeat(50)
        )),
        grammar("root ::= ((((\"a\"{2000}){2000}){2000}){2000}){2000}"),
        grammar("root ::= (((root \"a\"){2000}){2000}){2000} | \"b\""),
        grammar("root ::= root"),
        grammar("root ::= root root | \"a\" | \"\""),
        grammar("root ::= a | b\na ::= b\nb ::= a"),
        grammar("root ::= ([a-z]* [a-z]* [a-z]* [a-z]*)* \"!\"{500}"),
        grammar("root ::= (root* root* root*)* | [^a]"),
        grammar(&format!("root ::= {}", "\"a\" | ".repeat(30_000) + "\"b\"")),
        grammar(&format!("root ::= r0\n{}", names.collect::<String>())),
        chain(990, "root"),
        chain(990, "\"b\""),
        chain(190, "\"b\""),
        chain(95, "\"b\""),
        doubling(60),
        doubling(1_000),
        nested(60),
        nested(120),
        Rule::JsonSchema(json!({"$ref": "#"})),
        Rule::JsonSchema(json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]})),
        Rule::JsonSchema(json!({"anyOf": [{"$ref": "#"}, {"not": {"$ref": "#"}}]})),
        Rule::JsonSchema(json!({"type": "string", "pattern": "((((a{1000}){1000}){1000}){1000})"})),
        Rule::JsonSchema(json!({"type": "string", "pattern": "(x+x+)+y".repeat(200)})),
        Rule::JsonSchema(json!({"type": "string", "minLength": 1_000_000_000})),
        Rule::JsonSchema(json!({"type": "array", "minItems": 1_000_000_000_u64})),
        Rule::JsonSchema(json!({"type": "integer", "multipleOf": 1e-300, "minimum": -1e300})),
        Rule::JsonSchema(json!({"type": "object", "properties": keys})),
        Rule::JsonSchema(
            json!({"type": "object", "patternProperties": {"^(a|b)*$": {}, "^(b|c)*$": {}}}),
        ),
        Rule::JsonSchema(json!({"enum": (0..20_000).collect::<Vec<_>>()})),
    ];
    for (i, rule) in rules.iter().enumerate() {
        let start = Instant::now();
        let made = vocabulary.constraint(rule);
        let read = start.elapsed();
        let said = match &made {
            Ok(constraint) => {
                let mut constraint = constraint.boxed();
                // Whatever comes first, for some steps.
                for _ in 0..20 {
                    let first = match constraint.next() {
                        Ok(Next::Tokens { allowed, .. }) => (0..tokenizer.len() as u32)
                            .find(|id| allowed[*id as usize / 32] >> (id % 32) & 1 == 1),
                        _ => None,
                    };
                    match first {
                        Some(id) => constraint.take(id),
                        None => break,
                    }
                }
                format!("ok, then {:?}", constraint.next().map(|_| ()))
            }
            Err(error) => error.to_string(),
        };
        println!(
            "{i}: {read:?}, {:?}: {:?}",
            start.elapsed(),
            said.chars().take(150).collect::<String>()
        );
        assert!(start.elapsed() < SOON, "rule {i}: {:?}", start.elapsed());
    }
}
