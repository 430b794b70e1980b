//! Writes small checkpoints in both formats, whole or broken.

use std::io::Write;
use std::path::Path;

use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

/// A tensor to be stored.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    /// safetensors' name of the type.
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// An F32 tensor.
    pub fn f32(name: &str, shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        Tensor {
            name: name.to_string(),
            dtype: "F32",
            shape: shape.to_vec(),
            bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    /// An F32 tensor of distinct values that any float type of 16 bits holds exactly too.
    pub fn counting(name: &str, shape: &[usize]) -> Self {
        let seed = name.bytes().map(usize::from).sum::<usize>();
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|i: usize| ((i * 7 + seed) % 127) as f32 - 63.0)
            .collect();
        Tensor::f32(name, shape, &values)
    }
}

/// A safetensors file.
pub fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut offset = 0;
    for t in tensors {
        let end = offset + t.bytes.len();
        header.insert(
            t.name.clone(),
            serde_json::json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [offset, end]}),
        );
        offset = end;
    }
    let header = serde_json::to_vec(&header).expect("a header");
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(tensors.iter().flat_map(|t| &t.bytes));
    file
}

/// The opcodes of a pickled state dict, as torch.save writes them.
#[derive(Default)]
pub struct Pickle(pub Vec<u8>);

impl Pickle {
    pub fn op(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend(bytes);
        self
    }

    pub fn text(&mut self, text: &str) -> &mut Self {
        self.op(b"X")
            .op(&(text.len() as u32).to_le_bytes())
            .op(text.as_bytes())
    }

    pub fn int(&mut self, n: i32) -> &mut Self {
        self.op(b"J").op(&n.to_le_bytes())
    }

    pub fn global(&mut self, module: &str, name: &str) -> &mut Self {
        self.op(format!("c{module}\n{name}\n").as_bytes())
    }

    pub fn ints(&mut self, numbers: &[usize]) -> &mut Self {
        self.op(b"(");
        for &n in numbers {
            self.int(n as i32);
        }
        self.op(b"t")
    }

    /// `_rebuild_tensor_v2(storage, 0, shape, stride, False, OrderedDict())`.
    pub fn tensor(
        &mut self,
        storage: &str,
        key: &str,
        numel: usize,
        shape: &[usize],
        stride: &[usize],
    ) -> &mut Self {
        self.global("torch._utils", "_rebuild_tensor_v2")
            .op(b"((")
            .text("storage")
            .global("torch", storage)
            .text(key)
            .text("cpu")
            .int(numel as i32)
            .op(b"tQ")
            .int(0)
            .ints(shape)
            .ints(stride)
            .op(b"\x89")
            .global("collections", "OrderedDict")
            .op(b")RtR")
    }
}

/// Strides of a row-major tensor.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// The pickle of a state dict whose tensor `i` has storage `i`.
pub fn state_dict(tensors: &[Tensor]) -> Vec<u8> {
    let mut pickle = Pickle::default();
    pickle
        .op(b"\x80\x02")
        .global("collections", "OrderedDict")
        .op(b")Rq\x00(");
    for (i, t) in tensors.iter().enumerate() {
        let storage = match t.dtype {
            "F16" => "HalfStorage",
            "BF16" => "BFloat16Storage",
            "F32" => "FloatStorage",
            "U8" => "ByteStorage",
            other => panic!("no storage for {other}"),
        };
        let numel = t.shape.iter().product();
        pickle
            .text(&t.name)
            .tensor(storage, &i.to_string(), numel, &t.shape, &strides(&t.shape));
    }
    // A state dict carries its modules' versions as an attribute.
    pickle.op(b"u}").text("_metadata").op(b"}").op(b"sb.");
    pickle.0
}

/// The archive that torch.save writes, around any pickle.
pub fn torch_archive(pickle: &[u8], storages: &[&[u8]], method: CompressionMethod) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    let mut add = |name: &str, bytes: &[u8]| {
        zip.start_file(name, options).expect("an entry");
        zip.write_all(bytes).expect("its bytes");
    };
    add("archive/data.pkl", pickle);
    add("archive/byteorder", b"little");
    for (i, bytes) in storages.iter().enumerate() {
        add(&format!("archive/data/{i}"), bytes);
    }
    add("archive/version", b"3\n");
    zip.finish().expect("an archive").into_inner()
}

/// A torch file of these tensors.
pub fn torch(tensors: &[Tensor]) -> Vec<u8> {
    let storages: Vec<&[u8]> = tensors.iter().map(|t| t.bytes.as_slice()).collect();
    torch_archive(&state_dict(tensors), &storages, CompressionMethod::Stored)
}

/// The configuration of a GPT-2 of one layer, 8 wide.
pub const TINY_CONFIG: &str = r#"{"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1,
    "n_positions": 4, "vocab_size": 10, "n_inner": null, "activation_function": "gelu_new"}"#;

/// Its tensors.
pub fn tiny_tensors() -> Vec<Tensor> {
    [
        ("transformer.wte.weight", vec![10, 8]),
        ("transformer.wpe.weight", vec![4, 8]),
        ("transformer.h.0.ln_1.weight", vec![8]),
        ("transformer.h.0.ln_1.bias", vec![8]),
        ("transformer.h.0.attn.c_attn.weight", vec![8, 24]),
        ("transformer.h.0.attn.c_attn.bias", vec![24]),
        ("transformer.h.0.attn.c_proj.weight", vec![8, 8]),
        ("transformer.h.0.attn.c_proj.bias", vec![8]),
        ("transformer.h.0.ln_2.weight", vec![8]),
        ("transformer.h.0.ln_2.bias", vec![8]),
        ("transformer.h.0.mlp.c_fc.weight", vec![8, 32]),
        ("transformer.h.0.mlp.c_fc.bias", vec![32]),
        ("transformer.h.0.mlp.c_proj.weight", vec![32, 8]),
        ("transformer.h.0.mlp.c_proj.bias", vec![8]),
        ("transformer.ln_f.weight", vec![8]),
        ("transformer.ln_f.bias", vec![8]),
    ]
    .into_iter()
    .map(|(name, shape)| Tensor::counting(name, &shape))
    .collect()
}

/// A folder with config.json and these files.
pub fn folder(config: &str, files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    write(dir.path(), "config.json", config.as_bytes());
    for (name, bytes) in files {
        write(dir.path(), name, bytes);
    }
    dir
}

pub fn write(dir: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(dir.join(name), bytes).expect("a file");
}
