//! `katari demo`: quantizes the checkpoint that comes along, and writes a story with it.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::PathBuf;

use anyhow::{Context, Result};
use katari_quantize::FileType;

use super::failure::Failure;
use super::folders;
use super::generation::GenerationArgs;
use super::model::{ModelArgs, Purpose};
use super::output::note;
use super::quantize;
use super::run::{ShowArgs, tell};

/// Quantize the small model that comes along and write a story with it.
///
/// The model is a GPT-NeoX of 7.8 million parameters, trained on Japanese literature in the
/// public domain. This program carries its checkpoint; the quantized file is kept in the cache
/// folder (XDG_CACHE_HOME or its like), and made anew where it is missing or damaged.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    katari demo\n  \
    katari demo \"山の中に、\" --max-new-tokens 300 --seed 7")]
pub struct Args {
    /// How the story begins
    #[arg(value_name = "PROMPT", default_value = "昔々、あるところに")]
    prompt: String,
    #[command(flatten)]
    generation: GenerationArgs,
    /// Print one JSON object at the end in place of text: text, ids, finish, seed and timings
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

macro_rules! checkpoint {
    ($($file:literal),* $(,)?) => {
        /// The demo checkpoint's files: name and bytes. 16 MB of this program.
        const CHECKPOINT: &[(&str, &[u8])] =
            &[$(($file, include_bytes!(concat!("../../demo/", $file)))),*];
    };
}

checkpoint![
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer_config.json",
];

/// The type that the demo is quantized to.
const TYPE: FileType = FileType::Q4_K_M;

pub fn run(args: Args) -> Result<(), Failure> {
    let cache = Cache::find()?;
    if cache.is_fresh() {
        note(format_args!(
            "1. Quantized before: {}",
            cache.model.display()
        ));
    } else {
        cache.unpack()?;
        note(format_args!(
            "1. Quantize it:\n   katari quantize {} --type {} -o {} --force",
            cache.checkpoint.display(),
            TYPE.name(),
            cache.model.display()
        ));
        quantize::quantize(&cache.checkpoint, TYPE, &cache.model)?;
        cache.seal()?;
    }
    note(format_args!(
        "2. Write with it:\n   katari run {} \"{}\" --echo\n",
        cache.model.display(),
        args.prompt
    ));
    let mut model = args.model.open(&cache.model, Purpose::Write)?;
    let show = ShowArgs {
        echo: !args.json,
        json: args.json,
    };
    tell(&mut model, &args.prompt, &args.generation, &show)
}

/// Where the demo lies on this machine.
struct Cache {
    /// The unpacked checkpoint, a folder.
    checkpoint: PathBuf,
    /// The quantized file.
    model: PathBuf,
    /// What tells that the quantized file is whole, and of this program and its checkpoint.
    seal: PathBuf,
}

impl Cache {
    fn find() -> Result<Self> {
        let folder = folders::cache(|name| std::env::var_os(name))?.join("demo");
        Ok(Self {
            checkpoint: folder.join("checkpoint"),
            model: folder.join(format!("katari-demo-{}.gguf", TYPE.name())),
            seal: folder.join("seal"),
        })
    }

    /// Whether the quantized file is there and is what was sealed.
    fn is_fresh(&self) -> bool {
        match (fs::read_to_string(&self.seal), self.expected_seal()) {
            (Ok(found), Ok(expected)) => found == expected,
            _ => false,
        }
    }

    /// Writes the checkpoint's files where they are missing or differ.
    fn unpack(&self) -> Result<()> {
        let folder = &self.checkpoint;
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the cache folder {}", folder.display()))?;
        for (name, bytes) in CHECKPOINT {
            let path = folder.join(name);
            if fs::read(&path).is_ok_and(|found| found == *bytes) {
                continue;
            }
            // Under another name first, so that no other process ever sees half of it.
            let temporary = folder.join(format!("{name}.{}", std::process::id()));
            fs::write(&temporary, bytes)
                .and_then(|()| fs::rename(&temporary, &path))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    fn seal(&self) -> Result<()> {
        let seal = self.expected_seal()?;
        fs::write(&self.seal, seal).with_context(|| format!("cannot write {}", self.seal.display()))
    }

    /// The program's version, and hashes of its checkpoint and of the quantized file. Against
    /// chance and old versions, not against malice: who can write here can do anything.
    fn expected_seal(&self) -> Result<String> {
        let model = fs::read(&self.model)
            .with_context(|| format!("cannot read {}", self.model.display()))?;
        let mut checkpoint = DefaultHasher::new();
        for (_, bytes) in CHECKPOINT {
            checkpoint.write(bytes);
        }
        let mut quantized = DefaultHasher::new();
        quantized.write(&model);
        Ok(format!(
            "katari {} {:016x} {:016x}\n",
            env!("CARGO_PKG_VERSION"),
            checkpoint.finish(),
            quantized.finish()
        ))
    }
}
