//! Clients for PyTorch: each program prints its version first and then what it found.

use std::{path::PathBuf, process::Command};

use emberline_tests::environment::s3_torch;

use crate::stack::{Setting, Stack, passed, versioned};

/// The Python, set up in the background while the rest starts.
async fn interpreter() -> PathBuf {
    tokio::task::spawn_blocking(|| s3_torch().expect("PyTorch")).await.expect("not cancelled")
}

fn python(interpreter: &PathBuf, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(interpreter);
    command.args(["-c", program]).args(arguments);
    command
}

const CONNECTOR: &str = "
import sys, hashlib, torch
from importlib.metadata import version
from s3torchconnector import S3ClientConfig, S3MapDataset
bucket, key, endpoint = sys.argv[1:]
print(version('s3torchconnector'))
how = dict(region='us-east-1', endpoint=endpoint, s3client_config=S3ClientConfig(force_path_style=True))
def pair(reader):
    return reader.key, reader.read()
names = S3MapDataset.from_prefix(f's3://{bucket}/data/part', transform=pair, **how)
loader = torch.utils.data.DataLoader(names, batch_size=5, num_workers=2, collate_fn=list)
found = dict(row for batch in loader for row in batch)
assert found == {f'data/part {n:02}+ü&.txt': str(n).encode() for n in range(25)}, found
digest = hashlib.sha256()
reader = S3MapDataset.from_objects([f's3://{bucket}/{key}'], **how)[0]
while piece := reader.read(1 << 20):
    digest.update(piece)
print(digest.hexdigest())
";

#[tokio::test(flavor = "multi_thread")]
async fn s3torchconnector_reads_a_data_set_with_many_workers() {
    let python_of = interpreter().await;
    let stack = Stack::start(Setting::default()).await;
    let ((key, _), url) = (stack.shard(), stack.url());
    let version = stack
        .reads_with_a_version(async || {
            versioned(&stack, python(&python_of, CONNECTOR, &["zoo", &key, &url])).await
        })
        .await;
    passed("s3torchconnector", &version, "map data set of a prefix by two workers, reader in sequence").await;
}

const STREAMER: &str = "
import os, sys, json, hashlib
os.environ['RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING'] = '0'
from importlib.metadata import version
import torch
from runai_model_streamer import FileChunks, FileStreamer, SafetensorsStreamer
bucket, key = sys.argv[1:]
print(version('runai-model-streamer'))
path = f's3://{bucket}/{key}'
with FileStreamer() as streamer:
    sizes = dict(streamer.list_files(f's3://{bucket}/llama'))
    size = {name.split('/')[-1]: size for name, size in sizes.items()}[key.split('/')[-1]]
    step = 1 << 20
    starts = list(range(0, size, step))
    streamer.stream_files([FileChunks(0, path, starts, [min(step, size - start) for start in starts])])
    whole = bytearray(size)
    for _, index, tensor in streamer.get_chunks():
        bytes_ = tensor.numpy().tobytes()
        whole[starts[index]:starts[index] + len(bytes_)] = bytes_
head = int.from_bytes(whole[:8], 'little')
table = json.loads(whole[8:8 + head])
table.pop('__metadata__', None)
with SafetensorsStreamer() as streamer:
    streamer.stream_files([path])
    for name, tensor in streamer.get_tensors():
        begin, end = table.pop(name)['data_offsets']
        assert tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() == whole[8 + head + begin:8 + head + end], name
assert not table, table
print(hashlib.sha256(whole).hexdigest())
";

#[tokio::test(flavor = "multi_thread")]
async fn runai_model_streamer_streams_tensors() {
    let python_of = interpreter().await;
    let stack = Stack::start(Setting::default()).await;
    let (key, _) = stack.shard();
    let version = stack
        .reads_with_a_version(async || versioned(&stack, python(&python_of, STREAMER, &["zoo", &key])).await)
        .await;
    passed("runai-model-streamer", &version, "files in many ranges, every tensor of a safetensors file")
        .await;
}

const SERIALIZE: &str = "
import sys, hashlib, torch
from tensorizer import TensorSerializer
torch.manual_seed(7)
module = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(5)])
serializer = TensorSerializer(sys.argv[1])
serializer.write_module(module)
serializer.close()
digest = hashlib.sha256()
for name, tensor in sorted(module.state_dict().items()):
    digest.update(tensor.numpy().tobytes())
print(digest.hexdigest())
";

const DESERIALIZE: &str = "
import os, sys, hashlib
from importlib.metadata import version
from tensorizer import TensorDeserializer, stream_io
path, endpoint = sys.argv[1:]
print(version('tensorizer'))
stream = stream_io.open_stream(path, 'rb', s3_access_key_id=os.environ['AWS_ACCESS_KEY_ID'],
    s3_secret_access_key=os.environ['AWS_SECRET_ACCESS_KEY'], s3_endpoint=endpoint, force_http=True)
tensors = TensorDeserializer(stream, device='cpu', verify_hash=True)
digest = hashlib.sha256()
for name in sorted(tensors.keys()):
    digest.update(tensors[name].detach().numpy().tobytes())
print(digest.hexdigest())
";

#[tokio::test(flavor = "multi_thread")]
async fn tensorizer_loads_a_module() {
    let python_of = interpreter().await;
    let stack = Stack::start(Setting::default()).await;
    let folder = stack.dir.path().join("upload");
    std::fs::create_dir(&folder).expect("a folder");
    let file = folder.join("module.tensors").display().to_string();
    let wanted = stack.run(python(&python_of, SERIALIZE, &[&file])).await;
    let origin = stack.origin.clone();
    tokio::task::spawn_blocking(move || origin.weed.upload("models", &folder, "tensors/").expect("uploaded"))
        .await
        .expect("not cancelled");
    let load = async || {
        let arguments = ["s3://models/tensors/module.tensors", &stack.url()];
        versioned(&stack, python(&python_of, DESERIALIZE, &arguments)).await
    };
    let (version, first) = load().await;
    assert_eq!(first, wanted.trim(), "while it comes");
    assert!(stack.metric("emberline_reads_total{door=\"s3\",found=\"waited\"}").await > 0.0);
    stack.is_here("s3://models/tensors").await;
    let before = stack.relay.delivered();
    assert_eq!(load().await.1, wanted.trim(), "when it is here");
    assert!(stack.relay.delivered() - before < 256 << 10, "what is here was fetched again");
    passed("tensorizer", &version, "a module by presigned V4 addresses, its hashes verified").await;
}
