//! Clients in Python: each program prints its version first and then what it found.

use std::{path::PathBuf, process::Command};

use emberline_tests::environment::{s3_clients, s3fs};

use crate::stack::{Setting, Stack, passed, versioned};

fn python(bin: PathBuf, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(bin.join("python"));
    command.args(["-c", program]).args(arguments);
    command
}

fn clients() -> PathBuf {
    s3_clients().expect("clients of S3")
}

const BOTO3_READ: &str = "
import sys, io, hashlib, boto3
bucket, key = sys.argv[1:]
body = io.BytesIO()
boto3.client('s3').download_fileobj(bucket, key, body)
print(hashlib.sha256(body.getvalue()).hexdigest())
";

const BOTO3_REST: &str = r#"
import sys, re, boto3, datetime, urllib.request, urllib.error
from botocore.config import Config
from botocore.exceptions import ClientError
bucket, key, endpoint = sys.argv[1:]
print(boto3.__version__)
s3 = boto3.client('s3')
def code(call, **kw):
    try:
        call(**kw)
    except ClientError as e:
        return e.response['Error']['Code'], e.response['ResponseMetadata']['HTTPStatusCode']
    raise AssertionError('no error')

head = s3.head_object(Bucket=bucket, Key=key)
etag, size = head['ETag'], head['ContentLength']
assert etag.startswith('"') and etag == s3.head_object(Bucket=bucket, Key=key)['ETag']
assert head['AcceptRanges'] == 'bytes' and head['LastModified'].year >= 2020, head
whole = s3.get_object(Bucket=bucket, Key=key)['Body'].read()
assert len(whole) == size
# Ranges
for spec, cut in [('bytes=0-0', slice(0, 1)), ('bytes=5-9', slice(5, 10)), ('bytes=-100', slice(size - 100, size)),
                  (f'bytes={size - 7}-', slice(size - 7, size)), ('bytes=0-99999999999999999999', slice(0, size))]:
    got = s3.get_object(Bucket=bucket, Key=key, Range=spec, IfMatch=etag)
    assert got['ResponseMetadata']['HTTPStatusCode'] == 206 and got['ETag'] == etag, got
    assert got['Body'].read() == whole[cut], spec
    assert got['ContentRange'] == f'bytes {cut.start}-{cut.stop - 1}/{size}', got['ContentRange']
assert s3.head_object(Bucket=bucket, Key=key, Range='bytes=1-4')['ContentLength'] == 4
assert code(s3.get_object, Bucket=bucket, Key=key, Range=f'bytes={size}-') == ('InvalidRange', 416)
# Conditions
old, new = datetime.datetime(2001, 1, 1), datetime.datetime(2037, 1, 1)
assert code(s3.get_object, Bucket=bucket, Key=key, IfNoneMatch=etag) == ('304', 304)
assert code(s3.get_object, Bucket=bucket, Key=key, IfModifiedSince=new) == ('304', 304)
assert code(s3.head_object, Bucket=bucket, Key=key, IfNoneMatch=etag) == ('304', 304)
assert code(s3.get_object, Bucket=bucket, Key=key, IfMatch='"x"') == ('PreconditionFailed', 412)
assert code(s3.get_object, Bucket=bucket, Key=key, IfUnmodifiedSince=old) == ('PreconditionFailed', 412)
assert s3.get_object(Bucket=bucket, Key=key, IfMatch=etag, IfUnmodifiedSince=old)['Body'].read() == whole
assert s3.get_object(Bucket=bucket, Key=key, IfMatch=etag.strip('"'))['Body'].read() == whole
# Parts and overrides
part = s3.get_object(Bucket=bucket, Key=key, PartNumber=1)
assert part['PartsCount'] == 1 and part['Body'].read() == whole
assert code(s3.get_object, Bucket=bucket, Key=key, PartNumber=2)[1] == 416
over = s3.get_object(Bucket=bucket, Key=key, ResponseContentType='text/x', ResponseContentDisposition='attachment')
assert (over['ContentType'], over['ContentDisposition']) == ('text/x', 'attachment')
# What is not there
assert code(s3.get_object, Bucket=bucket, Key='llama/nothing') == ('NoSuchKey', 404)
assert code(s3.head_object, Bucket=bucket, Key='llama') == ('404', 404)
assert code(s3.head_object, Bucket=bucket, Key='llama/') == ('404', 404)
assert code(s3.list_objects_v2, Bucket='no-such-bucket-here') == ('NoSuchBucket', 404)
assert code(s3.head_bucket, Bucket='no-such-bucket-here')[1] == 404
empty = s3.get_object(Bucket=bucket, Key='data/empty')
assert empty['ContentLength'] == 0 and empty['Body'].read() == b''
# Buckets
s3.head_bucket(Bucket=bucket)
assert s3.get_bucket_location(Bucket=bucket)['LocationConstraint'] is None
assert [b['Name'] for b in s3.list_buckets()['Buckets']] == ['lake', 'models', 'shelf', 'zoo']
# Listings
names = sorted(['data/table.parquet', 'data/empty'] + [f'data/part {n:02}+ü&.txt' for n in range(25)])
for kind, extra in [('list_objects_v2', {'FetchOwner': False}), ('list_objects', {})]:
    pages = list(s3.get_paginator(kind).paginate(Bucket=bucket, Prefix='data/', PaginationConfig={'PageSize': 7}, **extra))
    assert len(pages) == 4, len(pages)
    listed = [o['Key'] for p in pages for o in p['Contents']]
    assert listed == names, listed
    top = getattr(s3, kind)(Bucket=bucket, Delimiter='/')
    assert [p['Prefix'] for p in top['CommonPrefixes']] == ['data/', 'llama/'] and 'Contents' not in top, top
    assert len(getattr(s3, kind)(Bucket=bucket, Prefix='data/', Delimiter='')['Contents']) == 27
    none = getattr(s3, kind)(Bucket=bucket, MaxKeys=0)
    assert 'Contents' not in none and not none['IsTruncated'], none
    assert 'Contents' not in getattr(s3, kind)(Bucket=bucket, Prefix='nothing')
after = s3.list_objects_v2(Bucket=bucket, Prefix='data/', StartAfter='data/part 20')
assert [o['Key'] for o in after['Contents']] == [n for n in names if n > 'data/part 20']
after = s3.list_objects(Bucket=bucket, Prefix='data/', Marker='data/part 20')
assert [o['Key'] for o in after['Contents']] == [n for n in names if n > 'data/part 20']
assert code(s3.list_objects_v2, Bucket=bucket, ContinuationToken='no token') == ('InvalidArgument', 400)
one = [o for p in s3.get_paginator('list_objects_v2').paginate(Bucket=bucket) for o in p['Contents'] if o['Key'] == key]
assert one[0]['ETag'] == etag and one[0]['Size'] == size
# The bucket of the origin by its own name, and the schemes as buckets
assert s3.head_object(Bucket='models', Key='v1/' + key)['ETag'] == etag
assert s3.head_object(Bucket='s3', Key='models/v1/' + key)['ETag'] == etag
assert s3.list_objects_v2(Bucket='s3', Prefix='models/v1/', Delimiter='/')['CommonPrefixes'][0]['Prefix'] == 'models/v1/data/'
# Presigned, both ways; nothing without a signature, or with another one
special = 'data/part 07+ü&.txt'
for version in ['s3v4', 's3']:
    signer = boto3.client('s3', config=Config(signature_version=version))
    url = signer.generate_presigned_url('get_object', Params={'Bucket': bucket, 'Key': special}, ExpiresIn=60)
    assert urllib.request.urlopen(url).read() == b'7', url
    try:
        urllib.request.urlopen(re.sub('(Signature=)(.)', lambda m: m[1] + ('0' if m[2] != '0' else '1'), url))
        raise AssertionError('a wrong signature was taken')
    except urllib.error.HTTPError as e:
        assert e.code == 403, e
try:
    urllib.request.urlopen(f'{endpoint}/{bucket}/{special.split(" ")[0]}')
    raise AssertionError('no signature was taken')
except urllib.error.HTTPError as e:
    assert e.code == 403 and b'AccessDenied' in e.read(), e
# Virtual hosts, and with them a target in absolute form: as a client behind a proxy
virtual = boto3.client('s3', endpoint_url='http://s3.test.example', config=Config(
    s3={'addressing_style': 'virtual'}, proxies={'http': endpoint}))
assert virtual.get_object(Bucket=bucket, Key=key, Range='bytes=0-9')['Body'].read() == whole[:10]
assert virtual.list_objects_v2(Bucket=bucket, Prefix='data/part', MaxKeys=1)['KeyCount'] == 1
wrong = boto3.client('s3', aws_access_key_id='nobody', aws_secret_access_key='x' * 20)
assert code(wrong.list_objects_v2, Bucket=bucket) == ('InvalidAccessKeyId', 403)
wrong = boto3.client('s3', aws_secret_access_key='x' * 20, aws_access_key_id='door-key')
assert code(wrong.list_objects_v2, Bucket=bucket) == ('SignatureDoesNotMatch', 403)
try:
    wrong.list_objects_v2(Bucket=bucket)
except ClientError as e:
    assert 's3.secret_key_file' in e.response['Error']['Message'], e
"#;

#[tokio::test(flavor = "multi_thread")]
async fn boto3_reads_lists_and_asks_on_conditions() {
    let setting = Setting { door: "domain = \"s3.test.example\"", ..Setting::default() };
    let stack = Stack::start(setting).await;
    let (key, _) = stack.shard();
    stack
        .reads_while_it_comes_and_after(async || {
            stack.run(python(clients(), BOTO3_READ, &["zoo", &key])).await
        })
        .await;
    let program = python(clients(), BOTO3_REST, &["zoo", &key, &stack.url()]);
    let (version, _) = versioned(&stack, program).await;
    passed(
        "boto3",
        &version,
        "transfer manager, ranges, conditions, parts, both listings, presigned V2 and V4, virtual hosts, refusals",
    )
    .await;
}

const S3FS: &str = "
import sys, hashlib, s3fs
bucket, key = sys.argv[1:]
print(s3fs.__version__)
fs = s3fs.S3FileSystem()
digest = hashlib.sha256()
with fs.open(f'{bucket}/{key}', block_size=1 << 20) as f:
    while piece := f.read(1 << 20):
        digest.update(piece)
assert sorted(fs.ls(bucket)) == [f'{bucket}/data', f'{bucket}/llama'], fs.ls(bucket)
assert len(fs.find(f'{bucket}/data')) == 27
assert fs.info(f'{bucket}/{key}')['ETag'].startswith('\"')
assert fs.isdir(f'{bucket}/llama') and not fs.exists(f'{bucket}/nothing')
assert fs.cat(f'{bucket}/data/part 03+ü&.txt') == b'3'
print(digest.hexdigest())
";

#[tokio::test(flavor = "multi_thread")]
async fn s3fs_reads_and_lists() {
    let stack = Stack::start(Setting::default()).await;
    let (key, _) = stack.shard();
    let bin = tokio::task::spawn_blocking(|| s3fs().expect("s3fs")).await.expect("not cancelled");
    let version = stack
        .reads_with_a_version(async || versioned(&stack, python(bin.clone(), S3FS, &["zoo", &key])).await)
        .await;
    passed("s3fs", &version, "open, read by blocks, ls, find, info").await;
}

const PYARROW: &str = "
import sys, hashlib, pyarrow, pyarrow.parquet as pq
from pyarrow import fs
bucket, key, endpoint = sys.argv[1:]
print(pyarrow.__version__)
s3 = fs.S3FileSystem(endpoint_override=endpoint.removeprefix('http://'), scheme='http')
with s3.open_input_stream(f'{bucket}/{key}') as f:
    digest = hashlib.sha256(f.read()).hexdigest()
table = pq.read_table(f'{bucket}/data/table.parquet', filesystem=s3, columns=['id', 'square'], filters=[('id', '>=', 199_990)])
assert table.num_rows == 10 and table['square'][9].as_py() == 199_999 ** 2, table
found = s3.get_file_info(fs.FileSelector(f'{bucket}/data'))
assert len(found) == 27, len(found)
assert s3.get_file_info(f'{bucket}/llama').type == fs.FileType.Directory
assert s3.get_file_info(f'{bucket}/nothing').type == fs.FileType.NotFound
print(digest)
";

#[tokio::test(flavor = "multi_thread")]
async fn pyarrow_reads_files_and_parquet() {
    let stack = Stack::start(Setting::default()).await;
    let ((key, _), url) = (stack.shard(), stack.url());
    let version = stack
        .reads_with_a_version(async || {
            let told = versioned(&stack, python(clients(), PYARROW, &["zoo", &key, &url])).await;
            // The table is another artifact, and all of it comes once it was opened.
            stack.is_here("s3://models/v1/data").await;
            told
        })
        .await;
    passed("pyarrow", &version, "input stream, Parquet with columns and filters, directories").await;
}

const DUCKDB: &str = "
import sys, duckdb
from importlib.metadata import version
import duckdb_extension_httpfs, pathlib
bucket, endpoint = sys.argv[1:]
print(duckdb.__version__)
db = duckdb.connect(config={'allow_unsigned_extensions': True})
built = next(pathlib.Path(duckdb_extension_httpfs.__file__).parent.rglob('httpfs.duckdb_extension'))
db.execute(f\"LOAD '{built}'\")
db.execute(f\"CREATE SECRET s (TYPE s3, KEY_ID 'door-key', SECRET 'door-secret-0123456789', ENDPOINT '{endpoint.removeprefix('http://')}', URL_STYLE 'path', USE_SSL false, REGION 'us-east-1')\")
n, total = db.execute(f\"SELECT count(*), sum(square) FROM 's3://{bucket}/data/*.parquet' WHERE name = 'row 5'\").fetchone()
assert (n, total) == (2062, sum(i * i for i in range(200_000) if i % 97 == 5)), (n, total)
files = [r[0] for r in db.execute(f\"SELECT file FROM glob('s3://{bucket}/data/part*')\").fetchall()]
assert len(files) == 25, files
print(n)
";

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_queries_parquet() {
    let stack = Stack::start(Setting::default()).await;
    let (version, _) = versioned(&stack, python(clients(), DUCKDB, &["zoo", &stack.url()])).await;
    passed("duckdb (httpfs)", &version, "SELECT over Parquet by glob, before it is here and after").await;
}

const TORCH: &str = "
import sys, hashlib
from importlib.metadata import version
from s3torchconnectorclient._mountpoint_s3_client import MountpointS3Client
bucket, key, endpoint = sys.argv[1:]
print(version('s3torchconnectorclient'))
client = MountpointS3Client(region='us-east-1', user_agent_prefix='test', endpoint=endpoint, force_path_style=True)
digest = hashlib.sha256()
for piece in client.get_object(bucket, key):
    digest.update(piece)
keys = [o.key for page in client.list_objects(bucket, prefix='data/', delimiter='', max_keys=7) for o in page.object_info]
assert len(keys) == 27, keys
print(digest.hexdigest())
";

#[tokio::test(flavor = "multi_thread")]
async fn s3torchconnectorclient_reads_and_lists() {
    let stack = Stack::start(Setting::default()).await;
    let ((key, _), url) = (stack.shard(), stack.url());
    let version = stack
        .reads_with_a_version(async || {
            versioned(&stack, python(clients(), TORCH, &["zoo", &key, &url])).await
        })
        .await;
    passed("s3torchconnectorclient", &version, "get in ranges, list by pages").await;
}
