//! What there is: the endpoints as data, of which the router and the OpenAPI document are made.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::handler::Handler;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde_json::{Map, Value, json};

use super::fields::FIELDS;
use super::refusal::{Dialect, Refusal};
use super::state::Server;

/// What a field of a body holds. Null is as good as no field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// True or false.
    Flag,
    /// A whole number; a negative one means no limit.
    Count,
    /// A number.
    Number,
    /// A string.
    Text,
    /// A string or several.
    Texts,
    /// A string, token ids, or a list of either.
    Prompt,
    /// A conversation.
    Messages,
    /// Token ids.
    Ids,
    /// An object.
    Object,
    /// Another object with the fields that say how to write.
    Options,
    /// One of several things: the documentation says which.
    Other,
}

impl Kind {
    /// Its JSON schema.
    fn schema(self) -> Value {
        let id = || json!({"type": "integer", "minimum": 0});
        let list = |of: Value| json!({"type": "array", "items": of});
        match self {
            Kind::Flag => json!({"type": ["boolean", "null"]}),
            Kind::Count => json!({"type": ["integer", "null"]}),
            Kind::Number => json!({"type": ["number", "null"]}),
            Kind::Text => json!({"type": ["string", "null"]}),
            Kind::Texts => {
                json!({"type": ["string", "array", "null"], "items": {"type": "string"}})
            }
            Kind::Prompt => json!({"anyOf": [
                {"type": ["string", "null"]}, list(id()), list(json!({"type": "string"})),
                list(list(id())),
            ]}),
            Kind::Messages => json!({"type": "array", "minItems": 1, "items": {
                "type": "object", "required": ["role", "content"],
                "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
            }}),
            Kind::Ids => list(id()),
            Kind::Object => json!({"type": ["object", "null"]}),
            Kind::Options => json!({"anyOf": [{"$ref": WRITING}, {"type": "null"}]}),
            Kind::Other => json!({}),
        }
    }
}

/// The schema of the fields that say how to write.
const WRITING: &str = "#/components/schemas/Writing";

/// What an endpoint answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// JSON.
    Json,
    /// JSON, or server-sent events.
    Events,
    /// JSON, or JSON a line.
    Lines,
    /// Something else.
    Kind(&'static str),
}

/// What an endpoint is for.
#[derive(Debug, Clone, Copy)]
pub struct About {
    summary: &'static str,
    /// Fields of the body of its own, and whether they must be there.
    fields: &'static [(&'static str, Kind, bool)],
    /// Whether the body has the fields that say how to write too.
    writes: bool,
    answer: Answer,
}

impl About {
    /// An endpoint that takes nothing and answers with JSON.
    pub const fn new(summary: &'static str) -> About {
        About {
            summary,
            fields: &[],
            writes: false,
            answer: Answer::Json,
        }
    }

    /// With these fields in its body.
    pub const fn takes(self, fields: &'static [(&'static str, Kind, bool)]) -> About {
        About { fields, ..self }
    }

    /// With the fields that say how to write.
    pub const fn writes(self) -> About {
        About {
            writes: true,
            ..self
        }
    }

    /// With another answer.
    pub const fn answers(self, answer: Answer) -> About {
        About { answer, ..self }
    }
}

/// One method of one path.
#[derive(Debug, Clone)]
struct Endpoint {
    method: &'static str,
    path: String,
    about: About,
}

/// Endpoints and their handlers.
#[derive(Default)]
pub struct Endpoints {
    router: Router<Arc<Server>>,
    list: Vec<Endpoint>,
}

impl Endpoints {
    /// Adds one that is asked with GET.
    pub fn get<H: Handler<T, Arc<Server>>, T: 'static>(
        self,
        path: &str,
        about: About,
        handler: H,
    ) -> Self {
        self.add("get", path, about, get(handler))
    }

    /// Adds one that is asked with POST.
    pub fn post<H: Handler<T, Arc<Server>>, T: 'static>(
        self,
        path: &str,
        about: About,
        handler: H,
    ) -> Self {
        self.add("post", path, about, post(handler))
    }

    fn add(
        mut self,
        method: &'static str,
        path: &str,
        about: About,
        route: MethodRouter<Arc<Server>>,
    ) -> Self {
        self.router = self.router.route(path, route);
        self.list.push(Endpoint {
            method,
            path: path.into(),
            about,
        });
        self
    }

    /// Both together.
    pub fn merge(mut self, other: Endpoints) -> Self {
        self.router = self.router.merge(other.router);
        self.list.extend(other.list);
        self
    }

    /// The router of all, and of the document that describes them, itself among them.
    pub fn into_router(self) -> Router<Arc<Server>> {
        let document: Arc<OnceLock<String>> = Arc::default();
        let handler = {
            let document = Arc::clone(&document);
            move || async move {
                let document = document.get().cloned().unwrap_or_default();
                let kind = [(header::CONTENT_TYPE, "application/json")];
                (kind, document).into_response() as Response
            }
        };
        let about = About::new("This document");
        let all = self.get("/openapi.json", about, handler);
        // It is empty until here.
        let _ = document.set(describe(&all.list).to_string());
        all.router
    }
}

/// The OpenAPI 3.1 document of `list`.
fn describe(list: &[Endpoint]) -> Value {
    let mut paths = Map::new();
    for endpoint in list {
        let path = paths.entry(endpoint.path.clone()).or_insert(json!({}));
        path[endpoint.method] = operation(endpoint);
    }
    let writing = FIELDS.iter().flat_map(|(names, kind, _)| {
        let named = move |name: &&str| (name.to_string(), kind.schema());
        names.iter().map(named)
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "katari", "version": env!("CARGO_PKG_VERSION"),
            "description": "Text from one model, in the protocols of OpenAI, llama.cpp, KoboldAI \
                and Ollama. Fields that are not named here pass unread; numbers beyond a field's \
                range are clamped to it, but for `n` and token ids, which are refused.",
        },
        "security": [{}, {"bearer": []}, {"key": []}],
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
            "schemas": {"Writing": {
                "type": "object",
                "description": "How to write. Of several spellings of one field the one named \
                    first counts.",
                "properties": writing.collect::<Map<_, _>>(),
            }},
        },
        "paths": paths,
    })
}

fn operation(endpoint: &Endpoint) -> Value {
    let About {
        summary,
        fields,
        writes,
        answer,
    } = endpoint.about;
    let dialect = Dialect::of(&endpoint.path);
    let error = shape(&dialect.error(&Refusal::Busy));
    let mut kinds = match answer {
        Answer::Json => vec!["application/json"],
        Answer::Events => vec!["application/json", "text/event-stream"],
        Answer::Lines => vec!["application/json", "application/x-ndjson"],
        Answer::Kind(kind) => vec![kind],
    };
    let content: Map<_, _> = (kinds.drain(..))
        .map(|kind| (kind.into(), json!({})))
        .collect();
    let mut operation = json!({
        "summary": summary, "tags": [format!("{dialect:?}")],
        "responses": {
            "200": {"description": "The answer", "content": content},
            "default": {
                "description": "An error, as the protocol has it; 503 where the server is busy",
                "content": {"application/json": {"schema": error}},
            },
        },
    });
    let parameters: Vec<Value> = (endpoint.path.split('/'))
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            json!({
                "name": name, "in": "path", "required": true, "schema": {"type": "string"},
            })
        })
        .collect();
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if endpoint.method == "post" {
        let named = |(name, kind, _): &(&str, Kind, bool)| (name.to_string(), kind.schema());
        let must = fields.iter().filter(|field| field.2).map(|field| field.0);
        let own = json!({
            "type": "object", "properties": fields.iter().map(named).collect::<Map<_, _>>(),
            "required": must.collect::<Vec<_>>(),
        });
        let schema = match writes {
            true => json!({"allOf": [own, {"$ref": WRITING}]}),
            false => own,
        };
        operation["requestBody"] = json!({
            "required": fields.iter().any(|field| field.2),
            "content": {"application/json": {"schema": schema}},
        });
    }
    operation
}

/// The schema of values like `example`.
fn shape(example: &Value) -> Value {
    match example {
        Value::Object(map) => {
            let names: Vec<&String> = map.keys().collect();
            let fields: Map<_, _> = (map.iter()).map(|(k, v)| (k.clone(), shape(v))).collect();
            json!({"type": "object", "required": names, "properties": fields})
        }
        Value::Array(list) => json!({"type": "array", "items": list.first().map(shape)}),
        Value::String(_) => json!({"type": "string"}),
        Value::Number(_) => json!({"type": "number"}),
        Value::Bool(_) => json!({"type": "boolean"}),
        Value::Null => json!({"type": "null"}),
    }
}
