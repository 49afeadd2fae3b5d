//! ONNX files: graphs of standard operators (opset 18), in the folders that transformers.js and
//! Optimum use.
//!
//! Weights are in each graph's file. If together they are larger than [`LARGEST_EMBEDDED`], they
//! are in `onnx/model.onnx_data` once, which all graphs refer to. Nothing is trained or rounded
//! here.

pub(crate) mod graph;
pub(crate) mod layers;
pub(crate) mod proto;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use prost::Message;
use tch::Tensor;

use crate::TrainerError;
use crate::device::shim;
use crate::formats::files::publish_folder;
use crate::formats::tensor_file;

use graph::{Graph, type_of};
use proto::{EXTERNAL, Entry, GraphMessage, Model, OperatorSet, TensorMessage};

/// The largest total size of weights, in bytes, that is embedded in the graphs' files.
///
/// It is half of a message's maximum, so that programs that copy the message twice can still load
/// it.
pub const LARGEST_EMBEDDED: usize = 1 << 30;
const OPSET: i64 = 18;
/// The first version of the file format that has this opset.
const IR_VERSION: i64 = 8;
const FOLDER: &str = "onnx";
const DATA_FILE: &str = "model.onnx_data";
/// Smaller weights stay in the graph: shapes and other constants, which readers need immediately.
const SMALLEST_EXTERNAL: usize = 1024;
/// Weights begin at multiples of this, so that they can be mapped into memory.
const ALIGNMENT: usize = 4096;

/// Writes graphs and the files that `describe` adds, completely or not at all.
///
/// The first graph has the weights of all others. Weights above `largest_embedded` bytes
/// ([`LARGEST_EMBEDDED`]) go to a separate file.
pub(crate) fn write(
    graphs: &[(&str, Graph)],
    folder: &Path,
    largest_embedded: usize,
    describe: impl FnOnce(&Path) -> Result<(), TrainerError>,
) -> Result<(), TrainerError> {
    let none = BTreeMap::new();
    let all = graphs.first().map_or(&none, |(_, graph)| &graph.weights);
    let external = all.values().map(size).sum::<usize>() > largest_embedded;
    publish_folder(folder, |folder| {
        let onnx = folder.join(FOLDER);
        std::fs::create_dir(&onnx).map_err(TrainerError::io(&onnx))?;
        let places =
            if external { write_data(&onnx.join(DATA_FILE), all)? } else { HashMap::new() };
        for (name, graph) in graphs {
            let path = onnx.join(format!("{name}.onnx"));
            let bytes = model(name, graph, &places)?.encode_to_vec();
            tensor_file::write_file(&path, |sink| sink.write_all(&bytes))?;
        }
        describe(folder)
    })
}

fn size(tensor: &Tensor) -> usize {
    tensor.numel() * if type_of(tensor) == proto::INT64 { 8 } else { 4 }
}

/// Writes the large weights. Returns the byte at which each begins.
fn write_data(
    path: &Path,
    weights: &BTreeMap<String, Tensor>,
) -> Result<HashMap<String, usize>, TrainerError> {
    let large: Vec<_> =
        weights.iter().filter(|(_, tensor)| size(tensor) >= SMALLEST_EXTERNAL).collect();
    let bytes =
        large.iter().map(|(_, tensor)| shim::bytes(tensor)).collect::<Result<Vec<_>, _>>()?;
    let mut places = HashMap::with_capacity(large.len());
    let mut at = 0_usize;
    for ((name, _), bytes) in large.iter().zip(&bytes) {
        at = at.next_multiple_of(ALIGNMENT);
        places.insert((*name).clone(), at);
        at += bytes.len();
    }
    tensor_file::write_file(path, |sink| {
        let mut at = 0_usize;
        for ((name, _), bytes) in large.iter().zip(&bytes) {
            let start = places[*name];
            sink.write_all(&[0; ALIGNMENT][..start - at])?;
            sink.write_all(bytes)?;
            at = start + bytes.len();
        }
        Ok(())
    })?;
    Ok(places)
}

fn model(
    name: &str,
    graph: &Graph,
    places: &HashMap<String, usize>,
) -> Result<Model, TrainerError> {
    let initializer =
        graph.weights.iter().map(|(name, tensor)| initializer(name, tensor, places.get(name)));
    Ok(Model {
        ir_version: IR_VERSION,
        producer_name: "diptych".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(GraphMessage {
            node: graph.nodes.clone(),
            name: name.into(),
            initializer: initializer.collect::<Result<_, _>>()?,
            input: graph.inputs.clone(),
            output: graph.outputs.clone(),
        }),
        opset_import: vec![OperatorSet { domain: Some(String::new()), version: OPSET }],
    })
}

fn initializer(
    name: &str,
    tensor: &Tensor,
    place: Option<&usize>,
) -> Result<TensorMessage, TrainerError> {
    let message = TensorMessage {
        dims: tensor.size(),
        data_type: type_of(tensor),
        name: name.to_owned(),
        ..TensorMessage::default()
    };
    let entry = |key: &str, value: String| Entry { key: key.to_owned(), value };
    Ok(match place {
        None => TensorMessage { raw_data: Some(shim::bytes(tensor)?.to_vec()), ..message },
        Some(at) => TensorMessage {
            external_data: vec![
                entry("location", DATA_FILE.into()),
                entry("offset", at.to_string()),
                entry("length", size(tensor).to_string()),
            ],
            data_location: Some(EXTERNAL),
            ..message
        },
    })
}
