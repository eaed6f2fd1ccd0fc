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

[origins]
"#;
