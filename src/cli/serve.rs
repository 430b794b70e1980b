//! `katari serve`: answers front-ends over HTTP.

use std::env::VarError;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use katari::engine::{Engine, EngineOptions};
use katari::serve::{Chat, Facts, Guard, Limits, Model, Options, ServeError, serve};
use katari_gguf::keys::general;
use katari_quantize::FileType;

use super::card::Card;
use super::failure::Failure;
use super::model::{self, FileArg, ModelArgs, Purpose, read_text};

/// Answer front-ends over HTTP, in the protocols of OpenAI, llama.cpp, KoboldAI and Ollama.
///
/// It listens on this machine alone unless --host says otherwise. Texts are written --slots at a
/// time and share the model's passes; with a seed, a text is the same however many others are
/// written beside it. Logs go to standard error. Ctrl-C or SIGTERM lets texts that are being
/// written come to their end, and ends.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    katari serve model.gguf\n  \
    katari serve model.gguf --port 5001 --slots 8 --cors https://lite.koboldai.net\n  \
    KATARI_API_KEY=secret katari serve model.gguf --host 0.0.0.0")]
pub struct Args {
    #[command(flatten)]
    file: FileArg,
    /// Address to listen on; 0.0.0.0 for every network this machine is in
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 for any free one
    #[arg(long, value_name = "N", default_value_t = 8080)]
    port: u16,
    /// Texts that are written at once, each with a context of its own
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    slots: u16,
    /// Texts that may wait for a slot; who comes after them is told to come again
    #[arg(long, value_name = "N", default_value_t = 64)]
    queue: u16,
    /// What clients call the model [default: the file's name]
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// Ask clients for the key in the first line of this file [default: that of KATARI_API_KEY]
    #[arg(long, value_name = "PATH", help_heading = WHO)]
    api_key_file: Option<PathBuf>,
    /// Let pages of this origin ask, as https://lite.koboldai.net; * for all; may be given more
    /// than once. Pages of this machine may always
    #[arg(long, value_name = "ORIGIN", help_heading = WHO)]
    cors: Vec<String>,
    /// Answer to this host name too, while listening on this machine alone; may be given more
    /// than once
    #[arg(long, value_name = "HOST", help_heading = WHO)]
    allow_host: Vec<String>,
    /// Largest body of a request in bytes
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_body, help_heading = WHO)]
    max_body: usize,
    /// How long texts may go on when the server is told to end, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain: u32,
    /// Write logs as JSON, an object a line
    #[arg(long)]
    log_json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

const WHO: &str = "Who may ask";

pub fn run(args: Args) -> Result<(), Failure> {
    log(args.log_json);
    let key = args.key()?;
    let local_only = args.host.is_loopback();
    if !local_only && key.is_none() {
        tracing::warn!(
            "listening on {} without a key: whoever reaches it may use it (see --api-key-file)",
            args.host
        );
    }
    let mut hosts = args.allow_host.clone();
    // Any address of this machine alone, as 127.0.0.2, is a name of it.
    hosts.push(match args.host {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    });
    let options = Options {
        address: SocketAddr::new(args.host, args.port),
        slots: usize::from(args.slots),
        queue: usize::from(args.queue),
        guard: Guard {
            key,
            local_only,
            hosts,
            origins: args.cors.clone(),
        },
        limits: Limits {
            max_body: args.max_body,
            ..Limits::default()
        },
        drain: Duration::from_secs(u64::from(args.drain)),
    };
    match serve(&options, move || args.load()) {
        Ok(()) => Ok(()),
        Err(ServeError::Load(error)) => Err(error.into()),
        Err(error) => Err(Failure::with_code(1, error)),
    }
}

/// Logs to standard error; `json`: an object a line.
fn log(json: bool) {
    let logs = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO);
    match json {
        true => logs.json().flatten_event(true).init(),
        false => logs.init(),
    }
}

impl Args {
    fn key(&self) -> Result<Option<String>, Failure> {
        let key = match &self.api_key_file {
            Some(path) => {
                let text = read_text(path)?;
                let key = text.lines().next().unwrap_or("").trim().to_string();
                if key.is_empty() {
                    return Err(Failure::usage(format_args!(
                        "{}: the first line is empty, expected a key",
                        path.display()
                    )));
                }
                Some(key)
            }
            // A key that cannot be read is not the same as none.
            None => match std::env::var("KATARI_API_KEY") {
                Ok(key) => Some(key.trim().to_string()),
                Err(VarError::NotPresent) => None,
                Err(VarError::NotUnicode(_)) => {
                    return Err(Failure::usage("KATARI_API_KEY is not UTF-8"));
                }
            },
        };
        Ok(key.filter(|key| !key.is_empty()))
    }

    fn load(self) -> anyhow::Result<(Engine, Model)> {
        let options = EngineOptions {
            n_sequences: usize::from(self.slots),
            ..self.model.options(Purpose::Write)
        };
        let path = &self.file.file;
        let opened = model::open(path, &options)?;
        if let Some(warning) = opened.ctx_warning() {
            tracing::warn!("{warning}");
        }
        let chat = opened.template()?.map(|(source, template)| Chat {
            template,
            source: source.to_string(),
        });
        let model::Model {
            engine, tokenizer, ..
        } = opened;
        let metadata = &engine.gguf().metadata;
        let card =
            Card::read(metadata, engine.n_vocab()).with_context(|| path.display().to_string())?;
        let file_type = metadata.opt::<u32>(general::FILE_TYPE)?;
        let file_type = file_type.and_then(FileType::from_id);
        let stem = path.file_stem().unwrap_or_default();
        let facts = Facts {
            name: self
                .name
                .unwrap_or_else(|| stem.to_string_lossy().into_owned()),
            sampling: card.params,
            max_new: card.max_new_tokens,
            n_ctx: engine.n_ctx(),
            n_ctx_train: engine.n_ctx_train(),
            n_vocab: engine.n_vocab(),
            architecture: engine.architecture().name().to_string(),
            file_type: file_type.map_or("mixed", FileType::name).to_string(),
            file_bytes: engine.file().bytes().len() as u64,
            n_parameters: engine.gguf().tensors.iter().map(|t| t.n_values()).sum(),
            n_embd: engine.hyper().n_embd,
        };
        Ok((engine, Model::new(tokenizer, chat, facts)))
    }
}
