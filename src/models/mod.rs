//! The architectures, each written once, generic over [`Ops`].
//!
//! To add one: a file in this folder and its line in `architectures!`. The file holds the
//! hyper-parameters' peculiarities, a layer's weights, and the forward pass in three pieces:
//! `embed`, `layer` and `head`, so that layers can be split over devices.

mod block;
mod hyper;
mod load;

pub use block::{Entry, Exit, Output};
pub use hyper::{Hyper, HyperReader};
pub use load::{LoadError, Loader, Part, TensorFile};

use katari_gguf::{Gguf, keys};

use crate::ops::{Device, Ops};

/// What an architecture's file provides, for weights `T` of one device.
pub trait Architecture<T> {
    /// The weights of one layer.
    type Layer;

    /// How the output linear is stored.
    const OUTPUT: Output;

    /// Reads and validates what the metadata says of the model.
    fn hyper(reader: &HyperReader<'_>) -> Result<Hyper, LoadError>;

    /// Uploads the weights of layer `i` of the model, proving each one's presence and shape.
    fn load_layer<D: Device<Tensor = T>>(
        loader: &mut Loader<'_, '_, D>,
        hyper: &Hyper,
        i: usize,
    ) -> Result<Self::Layer, LoadError>;

    /// The batch's tokens as hidden states `[n_tokens, n_embd]`; on a part that is not the first,
    /// those of the part before.
    fn embed<O: Ops<Tensor = T>>(ops: &O, entry: &Entry<T>) -> O::Value {
        entry.forward(ops)
    }

    /// A layer, the `i`-th of its device: hidden states `[n_tokens, n_embd]` in and out.
    fn layer<O: Ops<Tensor = T>>(
        ops: &O,
        layer: &Self::Layer,
        hyper: &Hyper,
        i: usize,
        x: O::Value,
    ) -> O::Value;

    /// Hidden states `[n_tokens, n_embd]` to logits `[n_outputs, n_vocab]` on the last part; on
    /// others the hidden states as they came.
    fn head<O: Ops<Tensor = T>>(ops: &O, exit: &Exit<T>, x: O::Value) -> O::Value {
        exit.forward(ops, x)
    }
}

/// The weights of one part of a model of architecture `A`.
pub struct Weights<T, A: Architecture<T>> {
    entry: Entry<T>,
    layers: Vec<A::Layer>,
    exit: Exit<T>,
}

impl<T, A: Architecture<T>> Weights<T, A> {
    fn load<D: Device<Tensor = T>>(
        loader: &mut Loader<'_, '_, D>,
        hyper: &Hyper,
        part: &Part,
    ) -> Result<Self, LoadError> {
        let layers = part.layers.clone();
        Ok(Weights {
            entry: Entry::load(loader, hyper, part)?,
            layers: layers
                .map(|i| A::load_layer(loader, hyper, i))
                .collect::<Result<_, _>>()?,
            exit: Exit::load(loader, hyper, part, A::OUTPUT)?,
        })
    }

    fn forward<O: Ops<Tensor = T>>(&self, ops: &O, hyper: &Hyper) -> O::Value {
        let mut x = A::embed(ops, &self.entry);
        for (i, layer) in self.layers.iter().enumerate() {
            x = A::layer(ops, layer, hyper, i, x);
        }
        A::head(ops, &self.exit, x)
    }
}

/// Makes the registry from one line an architecture: type, module, name in `general.architecture`.
macro_rules! architectures {
    ($($variant:ident: $module:ident = $name:literal;)*) => {
        $(mod $module;)*

        /// An architecture this build knows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)] // each variant is the architecture of its name
        pub enum ArchitectureId { $($variant,)* }

        impl ArchitectureId {
            /// Every architecture there is.
            pub const ALL: [ArchitectureId; [$(ArchitectureId::$variant),*].len()] =
                [$(ArchitectureId::$variant),*];

            /// Its name in `general.architecture`.
            pub const fn name(self) -> &'static str {
                match self { $(ArchitectureId::$variant => $name,)* }
            }

            /// Reads and validates what the metadata of a file of this architecture says.
            fn hyper(self, reader: &HyperReader<'_>) -> Result<Hyper, LoadError> {
                match self {
                    $(ArchitectureId::$variant =>
                        <$module::$variant as Architecture<()>>::hyper(reader),)*
                }
            }
        }

        /// The weights of one part of a model on one device, of any architecture.
        pub enum Model<T> {
            $(
                #[doc = concat!("`", $name, "`")]
                $variant(Weights<T, $module::$variant>),
            )*
        }

        impl<T> Model<T> {
            /// Uploads the weights of `part`, proving that each is there in the right shape.
            pub fn load<D: Device<Tensor = T>>(
                architecture: ArchitectureId,
                loader: &mut Loader<'_, '_, D>,
                hyper: &Hyper,
                part: &Part,
            ) -> Result<Self, LoadError> {
                Ok(match architecture {
                    $(ArchitectureId::$variant =>
                        Model::$variant(Weights::load(loader, hyper, part)?),)*
                })
            }

            /// The part's forward pass, from the tokens or the part before to logits
            /// `[n_outputs, n_vocab]` or hidden states `[n_tokens, n_embd]`.
            pub fn forward<O: Ops<Tensor = T>>(&self, ops: &O, hyper: &Hyper) -> O::Value {
                match self { $(Model::$variant(weights) => weights.forward(ops, hyper),)* }
            }
        }
    };
}

architectures! {
    GptJ: gptj = "gptj";
    GptNeoX: gptneox = "gptneox";
    GptNeoXJapanese: gptneox_japanese = "gptneox-japanese";
    Gpt2: gpt2 = "gpt2";
}

impl ArchitectureId {
    /// The architecture that `gguf` names, and its hyper-parameters.
    pub fn read(gguf: &Gguf) -> Result<(ArchitectureId, Hyper), LoadError> {
        let key = keys::general::ARCHITECTURE;
        let name: &str = gguf.metadata.need(key)?;
        let id = ArchitectureId::ALL.iter().find(|id| id.name() == name);
        let id = *id.ok_or_else(|| LoadError::Key {
            key: key.into(),
            found: format!("'{name}'"),
            expected: ArchitectureId::ALL.map(|id| id.name()).join(", "),
        })?;
        Ok((id, id.hyper(&HyperReader::new(gguf, id.name()))?))
    }
}
