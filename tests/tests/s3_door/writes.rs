//! Writing through the door into the bucket behind a mount, by real clients; and being told what to set.

use std::{
    fs,
    process::{Command, Stdio},
};

use emberline_tests::environment::{Fault, S3_KEY, S3_SECRET, s3_clients, s3fs};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::stack::{Setting, Stack, digest, passed, versioned};

const WRITABLE: Setting = Setting { anonymous: false, door: "writable_mounts = [\"shelf\"]", breaks: false };

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
# A key that no file can have is not written, and is gone without being removed
for nameless in ['/dir/', '/a//b']:
    assert code(s3.put_object, Bucket=bucket, Key=folder + nameless, Body=b'') == 'InvalidArgument', nameless
    s3.delete_object(Bucket=bucket, Key=folder + nameless)
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

/// Tries each call with these arguments, and says what came of it: a code, or `done`.
const CALLS: &str = r#"
import sys, json, boto3
from botocore.config import Config
from botocore.exceptions import ClientError
# One attempt each: what the door says is what is told.
s3 = boto3.client('s3', config=Config(retries={'total_max_attempts': 1}))
for name, arguments in json.loads(sys.argv[1]):
    try:
        getattr(s3, name)(Bucket='shelf', **arguments)
        print('done')
    except ClientError as e:
        print(e.response['Error']['Code'], e.response['ResponseMetadata']['HTTPStatusCode'], e.response['Error']['Message'])
"#;

/// What the door says to some calls of boto3, a line each.
async fn said(stack: &Stack, calls: serde_json::Value) -> Vec<String> {
    let text = stack.run(client("python", &["-c", CALLS, &calls.to_string()])).await;
    text.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_door_cannot_do_is_refused_and_not_left_out() {
    let stack = Stack::start(WRITABLE).await;
    let key = "guarded/object";
    let refused = [
        ("delete_object", json!({"Key": key, "VersionId": "3sL4kqtJlcpXroDTDmJ"}), "versions"),
        ("delete_object", json!({"Key": key, "IfMatch": "\"0123\""}), "conditions"),
        ("put_object", json!({"Key": key, "ACL": "public-read"}), "x-amz-acl"),
        ("put_object", json!({"Key": key, "GrantRead": "id=1"}), "x-amz-grant-read"),
        ("put_object", json!({"Key": key, "ServerSideEncryption": "AES256"}), "x-amz-server-side-encryption"),
        (
            "put_object",
            json!({"Key": key, "ObjectLockLegalHoldStatus": "ON"}),
            "x-amz-object-lock-legal-hold",
        ),
        ("put_object", json!({"Key": key, "StorageClass": "GLACIER"}), "x-amz-storage-class"),
        ("put_object", json!({"Key": key, "WriteOffsetBytes": 4}), "x-amz-write-offset-bytes"),
        (
            "create_multipart_upload",
            json!({"Key": key, "ServerSideEncryption": "aws:kms"}),
            "x-amz-server-side-encryption",
        ),
    ];
    let mut calls = vec![json!(["put_object", {"Key": key, "Body": "kept", "ACL": "private"}])];
    calls.extend(refused.iter().map(|(name, arguments, _)| json!([name, arguments])));
    let lines = said(&stack, calls.into()).await;
    assert_eq!(lines[0], "done");
    for ((name, arguments, names), line) in refused.iter().zip(&lines[1..]) {
        assert!(line.starts_with("NotImplemented 501") && line.contains(names), "{name} {arguments}: {line}");
    }
    assert_eq!(lines.len(), refused.len() + 1);
    assert_eq!(at_origin(&stack, key).await, hex(b"kept"), "the object is as it was");
}

/// The SHA-256 of some bytes.
fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

const TOLD: &str = "
import sys, boto3
endpoint, access, secret = sys.argv[1:]
s3 = boto3.client('s3', endpoint_url=endpoint, aws_access_key_id=access, aws_secret_access_key=secret)
for key in ['w/described/small', 'w/described/parts']:
    head = s3.head_object(Bucket='models', Key=key)
    assert head['ContentType'] == 'application/x-step', head
    assert head['CacheControl'] == 'no-store' and head['Metadata'] == {'step': '1200'}, head
    tags = s3.get_object_tagging(Bucket='models', Key=key)['TagSet']
    assert tags == [{'Key': 'team', 'Value': 'l m'}], tags
";

#[tokio::test(flavor = "multi_thread")]
async fn an_object_at_the_origin_is_described_as_its_writer_did() {
    let stack = Stack::start(WRITABLE).await;
    let described = json!({"ContentType": "application/x-step", "CacheControl": "no-store",
        "Metadata": {"step": "1200"}, "Tagging": "team=l%20m"});
    let program = "
import sys, json, boto3
about = json.loads(sys.argv[1])
s3 = boto3.client('s3')
s3.put_object(Bucket='shelf', Key='described/small', Body=b'x', **about)
begun = s3.create_multipart_upload(Bucket='shelf', Key='described/parts', **about)['UploadId']
part = s3.upload_part(Bucket='shelf', Key='described/parts', UploadId=begun, PartNumber=1, Body=b'part')
s3.complete_multipart_upload(Bucket='shelf', Key='described/parts', UploadId=begun, IfNoneMatch='*',
    MultipartUpload={'Parts': [{'PartNumber': 1, 'ETag': part['ETag']}]})
";
    stack.run(client("python", &["-c", program, &described.to_string()])).await;
    let url = stack.origin.weed.url();
    stack.run(client("python", &["-c", TOLD, &url, S3_KEY, S3_SECRET])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_must_be_new_does_not_lose_against_itself() {
    let stack = Stack::start(Setting { breaks: true, ..WRITABLE }).await;
    let put = |key: &str| json!(["put_object", {"Key": key, "Body": "mine", "IfNoneMatch": "*"}]);
    let puts = |key: &str| {
        let seen = stack.faults.seen();
        seen.iter().filter(|seen| seen.line.starts_with("PUT") && seen.line.contains(key)).count()
    };
    // Nothing goes wrong; somebody was first.
    let lines = said(&stack, json!([put("new/first"), put("new/first")])).await;
    assert!(lines[0] == "done" && lines[1].starts_with("PreconditionFailed 412"), "{lines:?}");
    // The store does it, and its answer is lost.
    stack.faults.inject("new/lost", Fault::LoseAnswer);
    let lines = said(&stack, json!([put("new/lost")])).await;
    assert_eq!(stack.faults.fired(), 1);
    assert!(lines[0].starts_with("OperationAborted 409") && lines[0].contains("look before"), "{lines:?}");
    assert_eq!(puts("new/lost"), 1, "it is not tried again");
    assert_eq!(at_origin(&stack, "new/lost").await, hex(b"mine"));
    // The store says that it did nothing: it is tried again.
    let busy = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    stack.faults.inject("new/busy", Fault::Answer(busy.to_vec()));
    assert_eq!(said(&stack, json!([put("new/busy")])).await, ["done"]);
    assert_eq!((stack.faults.fired(), puts("new/busy")), (2, 2));
    // Without the condition a second time does no harm.
    stack.faults.inject("new/any", Fault::LoseAnswer);
    assert_eq!(said(&stack, json!([["put_object", {"Key": "new/any", "Body": "mine"}]])).await, ["done"]);
    assert_eq!((stack.faults.fired(), puts("new/any")), (3, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_parts_that_must_be_new_is_completed_on_that_condition() {
    let stack = Stack::start(Setting { breaks: true, ..WRITABLE }).await;
    let program = "
import sys, boto3
from botocore.exceptions import ClientError
s3 = boto3.client('s3')
key = 'new/parts'
def upload(body):
    begun = s3.create_multipart_upload(Bucket='shelf', Key=key)['UploadId']
    part = s3.upload_part(Bucket='shelf', Key=key, UploadId=begun, PartNumber=1, Body=body)
    return dict(Bucket='shelf', Key=key, UploadId=begun, IfNoneMatch='*',
        MultipartUpload={'Parts': [{'PartNumber': 1, 'ETag': part['ETag']}]})
first, second = upload(b'first'), upload(b'second')
s3.complete_multipart_upload(**first)
try:
    s3.complete_multipart_upload(**second)
except ClientError as e:
    print(e.response['Error']['Code'])
s3.abort_multipart_upload(**{name: second[name] for name in ['Bucket', 'Key', 'UploadId']})
big = bytes(17 << 20)
s3.put_object(Bucket='shelf', Key='new/big', Body=big, IfNoneMatch='*')
";
    assert_eq!(stack.run(client("python", &["-c", program])).await.trim(), "PreconditionFailed");
    assert_eq!(at_origin(&stack, "new/parts").await, hex(b"first"));
    let seen = stack.faults.seen();
    let completed =
        seen.iter().filter(|seen| seen.line.starts_with("POST") && seen.line.contains("uploadId="));
    let conditions: Vec<bool> =
        completed.map(|seen| seen.head.to_ascii_lowercase().contains("if-none-match: *")).collect();
    assert_eq!(conditions, [true, true], "each reached the store once, with its condition");
}
