//! The command line of `katari quantize` and of the bin `quantize`.

use std::path::PathBuf;

use crate::plan::FileType;

/// Turn a Hugging Face checkpoint folder into a quantized GGUF file
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Checkpoint folder: config.json and model.safetensors or pytorch_model.bin, whole or in
    /// shards
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Folder with the tokenizer's files, where they are not in DIR
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// File to write, or folder to write it in [default: a name after the model, its size and
    /// type, in the current folder]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Type of the weights
    #[arg(
        long = "type",
        value_name = "TYPE",
        value_enum,
        ignore_case = true,
        default_value = "q4_k_m"
    )]
    pub file_type: FileType,
    /// Give every matrix the type itself, without more bits for the sensitive ones
    #[arg(long)]
    pub pure: bool,
    /// Print the plan (tensor, shape, from, to, bytes) and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Threads that convert [default: as many as there are cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
    /// Chat template to put into the file: `rinna`, `none`, or a file with a Jinja template
    /// [default: the checkpoint's own, or that of the model's card]
    #[arg(long, value_name = "NAME|FILE")]
    pub chat_template: Option<String>,
    /// Print the report or the plan as JSON
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// The options of `quantize DIR --type FILE_TYPE`.
    pub fn new(dir: impl Into<PathBuf>, file_type: FileType) -> Self {
        Options {
            dir: dir.into(),
            tokenizer: None,
            output: None,
            file_type,
            pure: false,
            dry_run: false,
            threads: None,
            force: false,
            chat_template: None,
            json: false,
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  katari quantize ./japanese-gpt-neox-3.6b
  katari quantize ./genji-jp --tokenizer ./gpt-j-6B --type q4_0 -o genji-q4_0.gguf";
