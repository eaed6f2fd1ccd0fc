//! Writing through the door into the bucket behind a mount, by real clients; and being told what to set.

use std::{
    fs,
    process::{Command, Stdio},
};

use emberline_tests::environment::{S3_KEY, S3_SECRET, s3_clients, s3fs};

use crate::stack::{Setting, Stack, digest, passed, versioned};

const WRITABLE: Setting = Setting { anonymous: false, door: "writable_mounts = [\"shelf\"]" };

fn client(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(s3_clients().expect("clients of S3").join(name));
    command.args(arguments);
    command
}

/// The SHA-256 of an object as the origin itself gives it out.
async fn at_origin(stack: &Stack, key: &str) -> String {
    let program = "
import sys, hashlib, boto3
endpoint, key, access, secret = sys.argv[1:]
s3 = boto3.client('s3', endpoint_url=endpoint, aws_access_key_id=access, aws_secret_access_key=secret)
print(hashlib.sha256(s3.get_object(Bucket='models', Key='w/' + key)['Body'].read()).hexdigest())
";
    let url = stack.origin.weed.url();
    stack.run(client("python", &["-c", program, &url, key, S3_KEY, S3_SECRET])).await.trim().to_owned()
}

/// Uploads in parts that the origin itself knows of and that are not completed.
const UNFINISHED: &str = "
import sys, time, boto3
endpoint, access, secret, wanted = sys.argv[1:]
s3 = boto3.client('s3', endpoint_url=endpoint, aws_access_key_id=access, aws_secret_access_key=secret)
until = time.monotonic() + 60
while True:
    found = [u['Key'] for u in s3.list_multipart_uploads(Bucket='models').get('Uploads', [])]
    if found == wanted.split():
        break
    assert time.monotonic() < until, found
    time.sleep(0.05)
";

const BREAKS_OFF: &str = "
import sys, socket, boto3
from urllib.parse import urlsplit
key, size, sent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
url = urlsplit(boto3.client('s3').generate_presigned_url('put_object', Params={'Bucket': 'shelf', 'Key': key}))
s = socket.create_connection((url.hostname, url.port))
s.sendall(f'PUT {url.path}?{url.query} HTTP/1.1\\r\\nHost: {url.netloc}\\r\\nContent-Length: {size}\\r\\n\\r\\n'.encode())
s.sendall(b'x' * sent)
sys.stdin.read()
s.close()
";

const BOTO3_WRITES: &str = r#"
import sys, io, boto3, base64, hashlib
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
bucket, folder = sys.argv[1:]
print(boto3.__version__)
s3 = boto3.client('s3')
def code(call, **kw):
    try:
        call(**kw)
    except ClientError as e:
        return e.response['Error']['Code']
    raise AssertionError('no error')
key = folder + '/small'
first = s3.put_object(Bucket=bucket, Key=key, Body=b'one')
assert s3.get_object(Bucket=bucket, Key=key)['Body'].read() == b'one'
# A second version is seen at once
s3.put_object(Bucket=bucket, Key=key, Body=b'two!')
assert s3.get_object(Bucket=bucket, Key=key)['Body'].read() == b'two!'
assert s3.list_objects_v2(Bucket=bucket, Prefix=folder + '/')['Contents'][0]['Size'] == 4
# Digests
md5 = lambda b: base64.b64encode(hashlib.md5(b).digest()).decode()
s3.put_object(Bucket=bucket, Key=key, Body=b'three', ContentMD5=md5(b'three'))
assert code(s3.put_object, Bucket=bucket, Key=key, Body=b'wrong', ContentMD5=md5(b'other')) == 'BadDigest'
for algorithm in ['CRC32', 'SHA1', 'SHA256']:
    s3.put_object(Bucket=bucket, Key=key, Body=b'three', ChecksumAlgorithm=algorithm)
sha = base64.b64encode(hashlib.sha256(b'other').digest()).decode()
assert code(s3.put_object, Bucket=bucket, Key=key, Body=b'wrong', ChecksumSHA256=sha) == 'BadDigest'
assert s3.get_object(Bucket=bucket, Key=key)['Body'].read() == b'three'
# Only if there is none
assert code(s3.put_object, Bucket=bucket, Key=key, Body=b'x', IfNoneMatch='*') == 'PreconditionFailed'
s3.put_object(Bucket=bucket, Key=folder + '/fresh', Body=b'x', IfNoneMatch='*')
s3.put_object(Bucket=bucket, Key=folder + '/empty', Body=b'')
assert s3.head_object(Bucket=bucket, Key=folder + '/empty')['ContentLength'] == 0
# In parts, and more than one request at once
big = bytes(range(256)) * (100 << 10)
s3.upload_fileobj(io.BytesIO(big), bucket, folder + '/big', Config=TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20))
assert s3.get_object(Bucket=bucket, Key=folder + '/big')['Body'].read() == big
s3.put_object(Bucket=bucket, Key=folder + '/one-piece', Body=big)
assert s3.get_object(Bucket=bucket, Key=folder + '/one-piece')['Body'].read() == big
upload = s3.create_multipart_upload(Bucket=bucket, Key=folder + '/gone')['UploadId']
s3.upload_part(Bucket=bucket, Key=folder + '/gone', UploadId=upload, PartNumber=1, Body=b'part')
s3.abort_multipart_upload(Bucket=bucket, Key=folder + '/gone', UploadId=upload)
assert code(s3.head_object, Bucket=bucket, Key=folder + '/gone') == '404'
# Away with it
s3.delete_object(Bucket=bucket, Key=key)
assert code(s3.head_object, Bucket=bucket, Key=key) == '404'
gone = s3.delete_objects(Bucket=bucket, Delete={'Objects': [{'Key': folder + '/fresh'}, {'Key': folder + '/empty'}, {'Key': folder + '/never'}]})
assert len(gone['Deleted']) == 3, gone
left = [o['Key'] for o in s3.list_objects_v2(Bucket=bucket, Prefix=folder + '/')['Contents']]
assert left == [folder + '/big', folder + '/one-piece'], left
print(hashlib.sha256(big).hexdigest())
# What may not be written
assert code(s3.put_object, Bucket='models', Key='x', Body=b'x') == 'AccessDenied'
assert code(s3.delete_object, Bucket='models', Key='v1/data/empty') == 'AccessDenied'
assert code(s3.create_bucket, Bucket='brand-new') == 'AccessDenied'
"#;

#[tokio::test(flavor = "multi_thread")]
async fn boto3_writes_into_the_bucket_behind_a_mount() {
    let stack = Stack::start(WRITABLE).await;
    let text = stack.run(client("python", &["-c", BOTO3_WRITES, "shelf", "written-by-boto3"])).await;
    let lines: Vec<&str> = text.lines().collect();
    for key in ["written-by-boto3/big", "written-by-boto3/one-piece"] {
        assert_eq!(at_origin(&stack, key).await, lines[1], "{key}");
    }
    passed("boto3", lines[0], "put, checksums, If-None-Match, upload in parts, abort, delete").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_cli_and_s5cmd_upload_in_parts() {
    let stack = Stack::start(WRITABLE).await;
    let (key, _) = stack.shard();
    let source = stack.origin.model.dir.join(key.trim_start_matches("llama/"));
    let (from, wanted) = (source.display().to_string(), digest(&source));
    stack.run(client("aws", &["s3", "cp", "--no-progress", &from, "s3://shelf/written/by-aws"])).await;
    let url = stack.url();
    stack
        .run(client(
            "s5cmd",
            &["--endpoint-url", &url, "cp", "-p", "5", &from, "s3://shelf/written/by-s5cmd"],
        ))
        .await;
    for name in ["by-aws", "by-s5cmd"] {
        let copy = stack.dir.path().join(name);
        let from = format!("s3://shelf/written/{name}");
        stack.run(client("aws", &["s3", "cp", "--no-progress", &from, &copy.display().to_string()])).await;
        assert_eq!(digest(&copy), wanted, "{name} through the door");
        assert_eq!(at_origin(&stack, &format!("written/{name}")).await, wanted, "{name} at the origin");
    }
    stack.run(client("aws", &["s3", "rm", "--recursive", "s3://shelf/written/"])).await;
    // The origin may go on to show the prefix itself for a while.
    let left = stack.run(client("aws", &["s3", "ls", "--recursive", "s3://shelf/"])).await;
    assert!(!left.contains("written/by-"), "{left}");
    passed("s5cmd", "2.3.0", "upload in parts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_write_is_told_what_to_set() {
    for anonymous in [false, true] {
        let stack = Stack::start(Setting { anonymous, ..Setting::default() }).await;
        fs::write(stack.dir.path().join("file"), "x").expect("written");
        for arguments in [["s3", "cp", "file", "s3://zoo/x"], ["s3", "rm", "s3://zoo/data/empty", "--quiet"]]
        {
            let mut command = client("aws", &arguments);
            command.envs(stack.variables()).current_dir(stack.dir.path());
            let output =
                tokio::task::spawn_blocking(move || command.output()).await.expect("run").expect("aws");
            assert!(!output.status.success());
            if arguments[1] == "cp" {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(said.contains("AccessDenied") && said.contains("s3.writable_mounts"), "{said}");
                assert_eq!(said.contains("s3.secret_key_file"), anonymous, "{said}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_leaves_nothing_at_the_origin() {
    let stack = Stack::start(WRITABLE).await;
    let (size, sent) = ((40 << 20).to_string(), (24 << 20).to_string());
    let url = stack.origin.weed.url();
    let unfinished = async |wanted: &str| {
        stack.run(client("python", &["-c", UNFINISHED, &url, S3_KEY, S3_SECRET, wanted])).await;
    };
    let mut command = client("python", &["-c", BREAKS_OFF, "torn/object", &size, &sent]);
    command.env_remove("AWS_CA_BUNDLE").envs(stack.variables()).stdin(Stdio::piped());
    let mut broken = command.spawn().expect("python");
    unfinished("w/torn/object").await;
    broken.kill().expect("killed");
    broken.wait().expect("gone");
    unfinished("").await;
    let listed = stack.run(client("aws", &["s3", "ls", "s3://shelf/"])).await;
    assert!(!listed.contains("torn"), "{listed}");
}

const PYARROW_WRITES: &str = "
import sys, hashlib, pyarrow, pyarrow as pa, pyarrow.parquet as pq
from pyarrow import fs
endpoint, = sys.argv[1:]
print(pyarrow.__version__)
s3 = fs.S3FileSystem(endpoint_override=endpoint.removeprefix('http://'), scheme='http')
table = pa.table({'id': pa.array(range(500_000), pa.int64()), 'text': [f'row {n}' for n in range(500_000)]})
pq.write_table(table, 'shelf/arrow/table.parquet', filesystem=s3, compression='none')
assert pq.read_table('shelf/arrow/table.parquet', filesystem=s3) == table
with s3.open_input_stream('shelf/arrow/table.parquet') as f:
    print(hashlib.sha256(f.read()).hexdigest())
";

#[tokio::test(flavor = "multi_thread")]
async fn pyarrow_writes_parquet() {
    let stack = Stack::start(WRITABLE).await;
    let program = client("python", &["-c", PYARROW_WRITES, &stack.url()]);
    let (version, digest) = versioned(&stack, program).await;
    assert_eq!(at_origin(&stack, "arrow/table.parquet").await, digest);
    passed("pyarrow", &version, "write a Parquet file, in parts").await;
}

const S3FS_WRITES: &str = "
import sys, hashlib, s3fs
print(s3fs.__version__)
fs = s3fs.S3FileSystem()
body = bytes(range(256)) * (60 << 10)
with fs.open('shelf/s3fs/big', 'wb', block_size=5 << 20) as f:
    f.write(body)
fs.pipe('shelf/s3fs/small', b'small')
assert fs.cat('shelf/s3fs/big') == body and fs.cat('shelf/s3fs/small') == b'small'
fs.rm('shelf/s3fs/small')
fs.invalidate_cache()
assert fs.ls('shelf/s3fs') == ['shelf/s3fs/big'], fs.ls('shelf/s3fs')
print(hashlib.sha256(body).hexdigest())
";

#[tokio::test(flavor = "multi_thread")]
async fn s3fs_writes_in_parts() {
    let stack = Stack::start(WRITABLE).await;
    let bin = tokio::task::spawn_blocking(|| s3fs().expect("s3fs")).await.expect("not cancelled");
    let mut program = Command::new(bin.join("python"));
    program.args(["-c", S3FS_WRITES]);
    let (version, digest) = versioned(&stack, program).await;
    assert_eq!(at_origin(&stack, "s3fs/big").await, digest);
    passed("s3fs", &version, "write in parts, pipe, rm").await;
}
