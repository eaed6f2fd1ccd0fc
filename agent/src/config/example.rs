//! The commented example that `--print-config-example` prints. A test keeps it complete and true.

pub(super) const TEXT: &str = r#"# Emberline agent. Every key with its default; `#key = …` are keys that are not set by default.
#
# The same key can be a variable, EMBERLINE_CLUSTER__ZONE for zone in [cluster], and the most used
# ones are flags of emberline-agent. Flags win over variables, variables over this file.
# Sizes are bytes or "200GiB"; durations are "30s", "5min".

# Where artifacts live: on the fastest local disk, never on a network file system.
data_dir = "/var/lib/emberline"

# How long a stop may take. In Kubernetes keep it below terminationGracePeriodSeconds.
shutdown_deadline = "20s"

# Origins by name, as every door shows them: { models = "s3://bucket/prefix" } is /models in all of them. Beside
# these, /s3/bucket/…, /gs/…, /az/…, /hf/org/name/revision/…, /http/host/… and /https/host/… are always there.
mounts = {}

# The HTTP door: /v1, files, metrics. /openapi.json describes it.
[http]
listen = "127.0.0.1:7580"
# The token that callers bring as `Authorization: Bearer`. Required off loopback; mode 0600.
#token_file = "/etc/emberline/http.token"
# Names, besides localhost and addresses, that callers without a token may use for this machine.
allowed_hosts = []
# Connections served at a time; more are told to come back later, health excepted.
max_connections = 1024
# A connection that sends no whole request for this long is closed.
idle_timeout = "30s"
# How long answers under way may go on at a stop; less than shutdown_deadline.
drain_timeout = "10s"

# The S3 door: mounts and buckets for everything that speaks S3; closed unless it has an address.
[s3]
#listen = "127.0.0.1:7582"
# What callers sign with, and a file with its secret, mode 0600. Without them nobody needs to sign, and nothing
# can be written. Required off loopback.
#access_key_id = "emberline"
#secret_key_file = "/etc/emberline/s3.secret"
# Buckets may be addressed as bucket.domain, besides bucket.localhost; without a port.
#domain = "s3.example.com"
# Names of [mounts] that callers may write: what they put is passed through to the bucket.
writable_mounts = []
# Connections served at a time; more are told to come back later.
max_connections = 1024

[log]
# "text" or "json", to standard error.
format = "text"
# error, warn, info, debug, trace; or by module: "info,emberline_agent=debug".
level = "info"

# The other agents.
[cluster]
# What people call this node; the host name if empty.
name = ""
# Where to listen for QUIC (UDP). Off loopback an identity is required: a secret or certificates.
listen = "127.0.0.1:7581"
# What others should dial, if it is not `listen`.
#advertise = "192.0.2.7:7581"
# Members to join by: "host:port"; DNS names are resolved again and again.
seeds = []
# Availability zone or rack: neighbours of the same zone are asked first.
zone = ""
# Share of the ring, 100 being one.
weight = 100
# The most payload a second that is served to other nodes, and that is asked of them and read from origins;
# 0: no limit. About half of the link leaves requests of others on it as they were.
# `preload limit` changes both while the agent runs.
max_upload_bytes = 0
max_download_bytes = 0
# The cluster secret, the same on every node; make one with `preload secret new FILE`. Mode 0600.
#secret_file = "/etc/emberline/cluster.secret"
# Instead of a secret: your own CA, certificate and key, in PEM.
#ca_file = "/etc/emberline/ca.pem"
#certificate_file = "/etc/emberline/node.pem"
#key_file = "/etc/emberline/node.key"

[store]
# The most that artifacts may take, unfinished ones included; 0: 90 % of the file system.
quota_bytes = 0
# Eviction of what was not used for longest starts at this share of the quota,
high_watermark = 0.95
# and ends at this one.
low_watermark = 0.85
# What is here is hashed again in the background, so many bytes a second; 0: not at all. Rot is dropped
# and fetched again.
scrub_bytes_per_second = "8MiB"
# A pass over everything starts at most this often.
scrub_every = "7days"

# Where models come from. Credentials are taken from where each service's own tools look for them
# (AWS_…, GOOGLE_APPLICATION_CREDENTIALS, AZURE_…, HF_TOKEN); they never leave this node.
[origins]
# A read that gets no byte for this long has stalled and is tried elsewhere. 5s to 2min.
stall_timeout = "30s"
# How long the head of an answer, or one page of a listing, may take. 5s to 2min.
request_timeout = "30s"
# Requests under way at once to one host. 4 to 256.
max_concurrent_requests = 64
# Further attempts after one that failed for a passing reason. 0 to 10.
retries = 5
# The longest wait before one of them.
max_retry_wait = "2min"
# Redirects followed for one request. 0 to 20.
max_redirects = 5
# Prefixes of references that may be opened, such as "s3://models/" or "file:///models"; empty: all.
# Redirects to other hosts are held to them too: name the content servers of a Hub as well.
allow = []

# S3 and everything that speaks it.
[origins.s3]
# The service; AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, else AWS itself.
#endpoint = "https://s3.example.com"
# AWS_REGION, AWS_DEFAULT_REGION, else us-east-1.
#region = "us-east-1"
# Address buckets as bucket.host instead of host/bucket.
#virtual_host = true
# Send no credentials.
anonymous = false
# Permit http:// endpoints; those on loopback always are.
allow_http = false
# Certificate authorities to trust besides the system's, PEM; AWS_CA_BUNDLE.
#ca_file = "/etc/emberline/s3-ca.pem"
# AWS_SHARED_CREDENTIALS_FILE, else ~/.aws/credentials; and its section, AWS_PROFILE, else default.
#credentials_file = "/etc/emberline/aws-credentials"
#profile = "default"
# What differs for single buckets, by name: { models = { endpoint = "https://…", region = "…" } }
buckets = {}

# Google Cloud Storage.
[origins.gs]
# The service; STORAGE_EMULATOR_HOST, else Google itself.
#endpoint = "https://storage.googleapis.com"
anonymous = false
allow_http = false
#ca_file = "/etc/emberline/gs-ca.pem"
# A service account key, JSON; else GOOGLE_APPLICATION_CREDENTIALS or the instance's own.
#service_account_file = "/etc/emberline/gcp.json"

# Azure Blob Storage.
[origins.az]
# The storage account, for references that do not name one; AZURE_STORAGE_ACCOUNT_NAME.
#account = "models"
# The account's blob service; else https://<account>.blob.core.windows.net.
#endpoint = "https://models.blob.core.windows.net"
anonymous = false
allow_http = false
#ca_file = "/etc/emberline/az-ca.pem"
#account_key_file = "/etc/emberline/azure.key"

# Hugging Face Hubs.
[origins.hf]
# The Hub; HF_ENDPOINT, else https://huggingface.co.
#endpoint = "https://huggingface.co"
# The token; else HF_TOKEN, HF_TOKEN_PATH, $HF_HOME/token.
#token_file = "/etc/emberline/hf.token"
# Send no token even where one is to be found.
anonymous = false
#ca_file = "/etc/emberline/hub-ca.pem"

# Plain HTTP servers.
[origins.http]
#ca_file = "/etc/emberline/http-ca.pem"
# A bearer token, sent to these hosts ("host" or "host:port") and no other.
#bearer_token_file = "/etc/emberline/bearer.token"
bearer_hosts = []

# HDFS: hdfs://host:port/path, or hdfs://service/path of a name service that Hadoop's configuration describes.
[origins.hdfs]
# Directory with core-site.xml and hdfs-site.xml; else HADOOP_CONF_DIR, HADOOP_HOME/etc/hadoop.
#config_dir = "/etc/hadoop/conf"
# Whom to ask as; else HADOOP_USER_NAME, else the user that the agent runs as.
#user = "hdfs"

# The Hugging Face door: HF_ENDPOINT=http://127.0.0.1:7580/hf for its clients.
[hugging_face]
# Who brings a token is let into a repository if the Hub lets that token in, and for so long without asking again.
admission_ttl = "5min"

[namespace]
# How long a listing, the size and version of a file, or what a branch stands for answers before its origin
# is asked again. When the origin is gone, what it said last goes on answering.
listing_ttl = "30s"

# Files that are read before they are whole.
[reader]
# Opening a file of a model fetches the model. Any other object is fetched whole in the background up to this
# size; a larger one only where it is read.
fill_max_bytes = "1GiB"

# What bytes cost, for `preload plan`, `preload status` and metrics; 0: nothing, or not known. Each node counts
# what is sent to it: by origins other than file://, also where they answer on loopback (most often a tunnel or proxy
# to one that costs), and by nodes of other zones.
[prices]
origin_per_gib = 0.0
cross_zone_per_gib = 0.0
currency = "USD"

# The namespace as a read-only file system. A file that is whole is read by the kernel itself, at the speed of the
# disk's own file system (as root, Linux 6.9); until then a read waits for its own chunk.
[fuse]
# An empty directory; no mount without it.
#mountpoint = "/mnt/emberline"
# Whether users other than the agent's may read there. An ordinary user's agent needs user_allow_other in
# /etc/fuse.conf for that; without, the mount is his alone.
allow_other = true
"#;
