//! Each metadata key and tensor name, once.
//!
//! Names are those of the GGUF specification and of llama.cpp's `gguf-py`, so that other
//! readers find what they look for; what GGUF has no key for lives under `katari.`.

/// Declares `pub const`s for whole keys.
macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident = $key:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $key;)*
    };
}

/// Keys about the file and the model as a whole.
pub mod general {
    keys! {
        /// String: which architecture's keys and tensors follow (`gptneox`, `gpt2` ...).
        ARCHITECTURE = "general.architecture";
        /// String: `model` for a language model.
        TYPE = "general.type";
        /// u32: the power of two that tensor data is aligned to; 32 where absent.
        ALIGNMENT = "general.alignment";
        /// u32: llama.cpp's number for the mix of tensor formats.
        FILE_TYPE = "general.file_type";
        /// u32: the version of the block formats, 2 today.
        QUANTIZATION_VERSION = "general.quantization_version";
        /// String: the model's name for people.
        NAME = "general.name";
        /// String: the name without size and version.
        BASENAME = "general.basename";
        /// String: what the model was tuned for (`instruct`, `chat` ...).
        FINETUNE = "general.finetune";
        /// String: the model's version.
        VERSION = "general.version";
        /// String: parameter count in short, as `3.6B`.
        SIZE_LABEL = "general.size_label";
        /// String: who made the model.
        AUTHOR = "general.author";
        /// String: the organization that published the model.
        ORGANIZATION = "general.organization";
        /// String: a sentence about the model.
        DESCRIPTION = "general.description";
        /// String: SPDX expression of the license.
        LICENSE = "general.license";
        /// String: the license's name, where SPDX has none.
        LICENSE_NAME = "general.license.name";
        /// String: where the license is published.
        LICENSE_LINK = "general.license.link";
        /// String: the model's page.
        URL = "general.url";
        /// String: the page of the checkpoint this file was made from.
        SOURCE_URL = "general.source.url";
        /// Array of strings: tags of the model card.
        TAGS = "general.tags";
        /// Array of strings: ISO 639 codes of the languages.
        LANGUAGES = "general.languages";
    }
}

/// Sampling that the model's card recommends. The first keys are llama.cpp's.
pub mod sampling {
    keys! {
        /// i32: keep the `k` likeliest tokens; 0 keeps all.
        TOP_K = "general.sampling.top_k";
        /// f32: keep the likeliest tokens that together hold this probability.
        TOP_P = "general.sampling.top_p";
        /// f32: keep tokens at least this likely relative to the likeliest.
        MIN_P = "general.sampling.min_p";
        /// f32: logits are divided by this.
        TEMPERATURE = "general.sampling.temp";
        /// i32: how many of the last tokens the repetition penalty looks at.
        PENALTY_LAST_N = "general.sampling.penalty_last_n";
        /// f32: repetition penalty (Keskar et al. 2019); 1 is none.
        PENALTY_REPEAT = "general.sampling.penalty_repeat";
        /// f32: typical sampling (Meister et al. 2022); 1 is none.
        TYPICAL_P = "katari.sampling.typical_p";
        /// Bool: whether to draw at all; false takes the likeliest token.
        DO_SAMPLE = "katari.sampling.do_sample";
        /// u32: longest text in tokens, the prompt among them.
        MAX_LENGTH = "katari.sampling.max_length";
        /// u32: shortest text in tokens, the prompt among them.
        MIN_LENGTH = "katari.sampling.min_length";
        /// u32: most tokens after the prompt.
        MAX_NEW_TOKENS = "katari.sampling.max_new_tokens";
        /// u32: fewest tokens after the prompt.
        MIN_NEW_TOKENS = "katari.sampling.min_new_tokens";
        /// Array of strings: token sequences never to write, each as ids joined by spaces.
        BANNED_IDS = "katari.sampling.banned_ids";
    }
}

/// The tokenizer's keys.
pub mod tokenizer {
    keys! {
        /// String: the algorithm: `t5` (unigram), `gpt2` (byte-level BPE) ...
        MODEL = "tokenizer.ggml.model";
        /// String: the pre-tokenizer of a byte-level BPE.
        PRE = "tokenizer.ggml.pre";
        /// Array of strings: the pieces, one an embedding row.
        TOKENS = "tokenizer.ggml.tokens";
        /// Array of i32: each piece's type, see [`super::token_type`].
        TOKEN_TYPE = "tokenizer.ggml.token_type";
        /// Array of f32: each piece's log probability (unigram).
        SCORES = "tokenizer.ggml.scores";
        /// Array of strings: merges in order of rank, `left right` (BPE).
        MERGES = "tokenizer.ggml.merges";
        /// u32: beginning of a text.
        BOS_ID = "tokenizer.ggml.bos_token_id";
        /// u32: end of a text.
        EOS_ID = "tokenizer.ggml.eos_token_id";
        /// u32: what stands for text that no piece covers.
        UNK_ID = "tokenizer.ggml.unknown_token_id";
        /// u32: separator. The key's spelling is that of the files in use.
        SEP_ID = "tokenizer.ggml.seperator_token_id";
        /// u32: padding.
        PAD_ID = "tokenizer.ggml.padding_token_id";
        /// u32: mask.
        MASK_ID = "tokenizer.ggml.mask_token_id";
        /// Bool: whether a prompt begins with bos.
        ADD_BOS = "tokenizer.ggml.add_bos_token";
        /// Bool: whether a prompt ends with eos.
        ADD_EOS = "tokenizer.ggml.add_eos_token";
        /// Bool: whether a space is put before a text (sentencepiece's dummy prefix).
        ADD_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix";
        /// Bool: whether runs of spaces become one.
        REMOVE_EXTRA_WHITESPACES = "tokenizer.ggml.remove_extra_whitespaces";
        /// Array of u8: sentencepiece's compiled character map.
        PRECOMPILED_CHARSMAP = "tokenizer.ggml.precompiled_charsmap";
        /// String: the whole `tokenizer.json`.
        HUGGINGFACE_JSON = "tokenizer.huggingface.json";
        /// String: the chat template, in Jinja.
        CHAT_TEMPLATE = "tokenizer.chat_template";
    }
}

/// Values of [`tokenizer::TOKEN_TYPE`].
#[allow(missing_docs)] // each is the type of its name
pub mod token_type {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
    /// Padding of the token list to the embedding's rows; never drawn.
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

/// Keys of an architecture, `{arch}.*`: each function takes the architecture's name.
pub mod arch {
    macro_rules! arch_keys {
        ($($(#[$doc:meta])* $name:ident = $key:literal;)*) => {
            $($(#[$doc])* pub fn $name(arch: &str) -> String { format!(concat!("{}.", $key), arch) })*
        };
    }
    arch_keys! {
        /// u32: rows of the embedding.
        vocab_size = "vocab_size";
        /// u32: positions the model was trained on.
        context_length = "context_length";
        /// u32: width of the hidden state.
        embedding_length = "embedding_length";
        /// u32: number of layers.
        block_count = "block_count";
        /// u32: width inside the feed-forward network.
        feed_forward_length = "feed_forward_length";
        /// Bool: whether attention and feed-forward read the same hidden state.
        use_parallel_residual = "use_parallel_residual";
        /// u32: attention heads.
        head_count = "attention.head_count";
        /// u32: heads of keys and values.
        head_count_kv = "attention.head_count_kv";
        /// f32: epsilon of the layer norms.
        layer_norm_epsilon = "attention.layer_norm_epsilon";
        /// u32: how many of a head's dimensions RoPE rotates.
        rope_dimension_count = "rope.dimension_count";
        /// f32: RoPE's base.
        rope_freq_base = "rope.freq_base";
        /// String: how RoPE is stretched (`none`, `linear`, `yarn`).
        rope_scaling_type = "rope.scaling.type";
        /// f32: by how much RoPE is stretched.
        rope_scaling_factor = "rope.scaling.factor";
    }
}

/// What the arithmetic needs and GGUF has no key for.
pub mod katari {
    keys! {
        /// String: the feed-forward activation: `gelu_erf`, `gelu_tanh`, `relu`, `silu`.
        ACTIVATION = "katari.activation";
        /// String: the program and version that wrote the file.
        WRITER = "katari.writer";
        /// String: abeja's emoji.json, whole.
        TOKENIZER_EMOJI = "katari.tokenizer.emoji";
        /// Bool: abeja's do_clean_text.
        TOKENIZER_CLEAN_TEXT = "katari.tokenizer.clean_text";
        /// Array of strings: abeja's vocab.txt lines, a token's surface forms joined by commas.
        TOKENIZER_SURFACES = "katari.tokenizer.surfaces";
        /// Array of strings: what a `tokenizer.json` does to a text before it is cut: each step's
        /// name (`nfc`, `nfkc`, `prepend`, `prepend-lines`, `replace`) and its arguments.
        TOKENIZER_NORMALIZER = "katari.tokenizer.normalizer";
        /// Array of u32: added tokens that are looked for after those steps, not before.
        TOKENIZER_NORMALIZED = "katari.tokenizer.normalized";
        /// Array of u32: tokens that the tokenizer's configuration adds to the vocabulary and the
        /// model never saw; never drawn.
        TOKENIZER_UNTRAINED = "katari.tokenizer.untrained";
        /// Bool: whether a word of a byte-level BPE that is a token is not cut further.
        TOKENIZER_IGNORE_MERGES = "katari.tokenizer.ignore_merges";
        /// Bool: whether a byte-level BPE cuts a text into words first; true where absent.
        TOKENIZER_WORDS = "katari.tokenizer.words";
        /// Bool: whether sentencepiece writes spaces as U+2581; true where absent.
        TOKENIZER_ESCAPE_WHITESPACES = "katari.tokenizer.escape_whitespaces";
        /// Bool: whether what no piece covers becomes byte tokens; where absent, if there are any.
        TOKENIZER_BYTE_FALLBACK = "katari.tokenizer.byte_fallback";
        /// String: what sentencepiece's unknown token shows.
        TOKENIZER_UNKNOWN_SURFACE = "katari.tokenizer.unknown_surface";
        /// String: how a `tokenizer.json` with a unigram model treats spaces, three words: where
        /// one is put first (`none always first never`), whether words are cut at them
        /// (`split whole`), which a decoded text loses (`keep text token`).
        TOKENIZER_METASPACE = "katari.tokenizer.metaspace";
        /// Array of f64: scores of a `tokenizer.json` that f32 cannot hold.
        TOKENIZER_SCORES = "katari.tokenizer.scores";
    }
}

/// Tensor names: a module of the model, or [`block`](tensor::block)'s module of a layer, then
/// [`weight`](tensor::weight) or [`bias`](tensor::bias).
///
/// ```
/// use katari_gguf::keys::tensor::{ATTN_NORM, TOKEN_EMBD, block, bias, weight};
/// assert_eq!(weight(TOKEN_EMBD), "token_embd.weight");
/// assert_eq!(bias(&block(3, ATTN_NORM)), "blk.3.attn_norm.bias");
/// ```
pub mod tensor {
    keys! {
        /// Token embedding, `[n_vocab, n_embd]`.
        TOKEN_EMBD = "token_embd";
        /// Learned position embedding, `[n_ctx, n_embd]` (GPT-2).
        POSITION_EMBD = "position_embd";
        /// The norm before the head.
        OUTPUT_NORM = "output_norm";
        /// The head, `[n_vocab, n_embd]`; absent where it is the token embedding.
        OUTPUT = "output";
        /// Of a layer: the norm before attention.
        ATTN_NORM = "attn_norm";
        /// Of a layer: queries, keys and values in one, `[3 n_embd, n_embd]`.
        ATTN_QKV = "attn_qkv";
        /// Of a layer: queries, `[n_embd, n_embd]`.
        ATTN_Q = "attn_q";
        /// Of a layer: keys, `[n_embd, n_embd]`.
        ATTN_K = "attn_k";
        /// Of a layer: values, `[n_embd, n_embd]`.
        ATTN_V = "attn_v";
        /// Of a layer: attention's output projection, `[n_embd, n_embd]`.
        ATTN_OUTPUT = "attn_output";
        /// Of a layer: the norm before the feed-forward network.
        FFN_NORM = "ffn_norm";
        /// Of a layer: into the feed-forward network, `[n_ff, n_embd]`.
        FFN_UP = "ffn_up";
        /// Of a layer: out of the feed-forward network, `[n_embd, n_ff]`.
        FFN_DOWN = "ffn_down";
    }

    /// A module of layer `layer`, counted from 0.
    pub fn block(layer: usize, module: &str) -> String {
        format!("blk.{layer}.{module}")
    }

    /// The name of a module's weight.
    pub fn weight(module: &str) -> String {
        format!("{module}.weight")
    }

    /// The name of a module's bias.
    pub fn bias(module: &str) -> String {
        format!("{module}.bias")
    }
}
