//! Settings from files, variables and flags: precedence, refusals and the example.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn file(dir: &Path, text: &str) -> ConfigSources {
    let path = dir.join("agent.toml");
    std::fs::write(&path, text).unwrap();
    ConfigSources { file: Some(path), ..ConfigSources::default() }
}

fn variables(pairs: &[(&str, &str)]) -> ConfigSources {
    let environment = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    ConfigSources { environment, ..ConfigSources::default() }
}

fn private(dir: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut sources =
        file(dir.path(), "[cluster]\nname = 'a'\nzone = 'a'\nweight = 1\n[store]\nquota_bytes = '1KiB'");
    sources.environment =
        variables(&[("EMBERLINE_CLUSTER__ZONE", "b"), ("EMBERLINE_CLUSTER__WEIGHT", "2")]).environment;
    sources.flags = vec![Flag { flag: "--weight", key: "cluster.weight", values: vec!["3".to_owned()] }];
    let config = Config::load(&sources).unwrap();
    assert_eq!(
        (config.cluster.name.as_str(), config.cluster.zone.as_str(), config.cluster.weight),
        ("a", "b", 3)
    );
    assert_eq!(config.store.quota_bytes, 1024);
}

#[test]
fn variables_are_read_as_the_type_of_their_key() {
    let config = Config::load(&variables(&[
        ("EMBERLINE_DATA_DIR", "/data"),
        ("EMBERLINE_SHUTDOWN_DEADLINE", "1min"),
        ("EMBERLINE_CLUSTER__NAME", "123"),
        ("EMBERLINE_CLUSTER__ZONE", "true"),
        ("EMBERLINE_CLUSTER__SEEDS", "a:1, b.example:2"),
        ("EMBERLINE_CLUSTER__ADVERTISE", "10.0.0.7:7581"),
        ("EMBERLINE_STORE__QUOTA_BYTES", "200GiB"),
        ("EMBERLINE_STORE__HIGH_WATERMARK", "0.9"),
        ("EMBERLINE_HTTP__LISTEN", "[::1]:0"),
        ("EMBERLINE_LOG__FORMAT", "json"),
        ("PATH", "/bin"),
    ]))
    .unwrap();
    assert_eq!(config.data_dir, Path::new("/data"));
    assert_eq!(config.shutdown_deadline, Duration::from_secs(60));
    assert_eq!((config.cluster.name.as_str(), config.cluster.zone.as_str()), ("123", "true"));
    assert_eq!(config.cluster.seeds, ["a:1", "b.example:2"]);
    assert_eq!(config.cluster.advertise, Some("10.0.0.7:7581".parse().unwrap()));
    assert_eq!(config.store.quota_bytes, 200 << 30);
    assert_eq!(config.store.high_watermark, 0.9);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn a_service_called_emberline_does_not_stop_the_agent() {
    let links = [
        ("EMBERLINE_SERVICE_HOST", "10.0.0.1"),
        ("EMBERLINE_SERVICE_PORT", "7580"),
        ("EMBERLINE_SERVICE_PORT_HTTP", "7580"),
        ("EMBERLINE_PORT", "tcp://10.0.0.1:7580"),
        ("EMBERLINE_PORT_7580_TCP", "tcp://10.0.0.1:7580"),
        ("EMBERLINE_PORT_7580_TCP_ADDR", "10.0.0.1"),
        ("EMBERLINE_AGENT_SERVICE_HOST", "10.0.0.1"),
        ("EMBERLINE_AGENT_PORT_7581_UDP_PROTO", "udp"),
    ];
    assert_eq!(Config::load(&variables(&links)).unwrap(), Config::default());
    assert!(Config::load(&variables(&[("EMBERLINE_CLUSTER__PORT", "1")])).is_err());
}

#[test]
fn a_wrong_setting_is_named_with_its_place_and_the_nearest_right_one() {
    let dir = tempfile::tempdir().unwrap();
    let in_file: &[(&str, &[&str])] = &[
        ("data_dri = '/x'", &["unknown key `data_dri`", "agent.toml", "`data_dir`"]),
        ("[cluster]\nzoen = 'a'", &["unknown key `cluster.zoen`", "agent.toml", "`cluster.zone`"]),
        ("zone = 'a'", &["unknown key `zone`", "`cluster.zone`"]),
        ("[clutser]\nzone = 'a'", &["unknown key `clutser`", "`cluster`"]),
        ("[store]\nquota = '1GiB'", &["unknown key `store.quota`", "`store.quota_bytes`"]),
        ("[cluster]\nweight = 'heavy'", &["`cluster.weight`", "agent.toml", "heavy", "u16"]),
        ("[cluster]\nweight = 70000", &["`cluster.weight`", "70000"]),
        ("[cluster]\nseeds = 'a:1'", &["`cluster.seeds`", "sequence"]),
        ("[http]\nlisten = 'here'", &["`http.listen`", "agent.toml", "socket address"]),
        ("[log]\nformat = 'xml'", &["`log.format`", "xml", "text, json"]),
        ("[store]\nquota_bytes = '12 parsecs'", &["`store.quota_bytes`", "agent.toml", "12 parsecs"]),
        ("[origins.s3]\nendpiont = 'x'", &["unknown key `origins.s3.endpiont`", "`origins.s3.endpoint`"]),
        (
            "[origins.s3.buckets.b]\nregoin = 'x'",
            &["`origins.s3.buckets.b.regoin`", "`origins.s3.buckets.b.region`"],
        ),
        (
            "[prices]\norigin_per_gb = 0.09",
            &["unknown key `prices.origin_per_gb`", "`prices.origin_per_gib`"],
        ),
        ("[prices]\norigin_per_gib = -1.0", &["prices.origin_per_gib is -1"]),
        ("shutdown_deadline = 'soon'", &["`shutdown_deadline`", "agent.toml"]),
        ("http = 3", &["`http`", "agent.toml"]),
        ("[http", &["agent.toml", "line 1"]),
    ];
    for (text, expected) in in_file {
        let error = Config::load(&file(dir.path(), text)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        for part in *expected {
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
    let in_environment: &[((&str, &str), &[&str])] = &[
        (("EMBERLINE_CLUSTER__ZOEN", "a"), &["EMBERLINE_CLUSTER__ZOEN", "EMBERLINE_CLUSTER__ZONE"]),
        (("EMBERLINE_CLUSTER_ZONE", "a"), &["unknown key `cluster_zone`", "EMBERLINE_CLUSTER__ZONE"]),
        (("EMBERLINE_CLUSTER__WEIGHT", "heavy"), &["`cluster.weight`", "variable EMBERLINE_CLUSTER__WEIGHT"]),
    ];
    for (variable, expected) in in_environment {
        let error = Config::load(&variables(&[*variable])).unwrap_err().to_string();
        for part in *expected {
            assert!(error.contains(part), "{variable:?}: {error}");
        }
    }
    let far = Config::load(&file(dir.path(), "qqqq = 1")).unwrap_err().to_string();
    assert!(!far.contains("did you mean"), "{far}");
    let missing = ConfigSources { file: Some(dir.path().join("none.toml")), ..ConfigSources::default() };
    assert_eq!(Config::load(&missing).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn what_others_could_reach_wants_a_secret() {
    let open_quic = Config::load(&variables(&[("EMBERLINE_CLUSTER__LISTEN", "0.0.0.0:7581")])).unwrap_err();
    assert!(open_quic.to_string().contains("preload secret new"), "{open_quic}");
    let open_http = Config::load(&variables(&[("EMBERLINE_HTTP__LISTEN", "[::]:7580")])).unwrap_err();
    assert!(open_http.to_string().contains("token_file"), "{open_http}");

    let dir = tempfile::tempdir().unwrap();
    let secret = private(dir.path(), "secret", &"ab".repeat(32), 0o600);
    let token = private(dir.path(), "token", "t0ken", 0o400);
    let closed = variables(&[
        ("EMBERLINE_CLUSTER__LISTEN", "0.0.0.0:7581"),
        ("EMBERLINE_CLUSTER__SECRET_FILE", secret.to_str().unwrap()),
        ("EMBERLINE_HTTP__LISTEN", "[::]:7580"),
        ("EMBERLINE_HTTP__TOKEN_FILE", token.to_str().unwrap()),
    ]);
    Config::load(&closed).unwrap();
}

#[test]
fn a_secret_that_others_can_read_is_refused_with_the_command_that_helps() {
    let dir = tempfile::tempdir().unwrap();
    for (key, mode) in [
        ("EMBERLINE_CLUSTER__SECRET_FILE", 0o640),
        ("EMBERLINE_CLUSTER__SECRET_FILE", 0o604),
        ("EMBERLINE_HTTP__TOKEN_FILE", 0o644),
    ] {
        let path = private(dir.path(), "secret", "x", mode);
        let error = Config::load(&variables(&[(key, path.to_str().unwrap())])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
    }
    let short = private(dir.path(), "secret", "ab", 0o600);
    let short = Config::load(&variables(&[("EMBERLINE_CLUSTER__SECRET_FILE", short.to_str().unwrap())]));
    assert!(short.unwrap_err().to_string().contains("64 hex digits"), "what it holds is looked at");
    let directory = Config::load(&variables(&[("EMBERLINE_HTTP__TOKEN_FILE", dir.path().to_str().unwrap())]));
    assert_eq!(directory.unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_value_that_is_none_is_shown_with_one_that_would_be() {
    let error = Config::load(&variables(&[("EMBERLINE_HTTP__LISTEN", "localhost")])).unwrap_err().to_string();
    for words in ["http.listen", "variable EMBERLINE_HTTP__LISTEN", "\"localhost\"", "127.0.0.1:7580"] {
        assert!(error.contains(words), "{words} is not in: {error}");
    }
}

#[test]
fn an_empty_variable_is_not_set_but_where_nothing_is_a_value() {
    let loaded = Config::load(&variables(&[
        ("EMBERLINE_DATA_DIR", ""),
        ("EMBERLINE_CLUSTER__SECRET_FILE", ""),
        ("EMBERLINE_HTTP__MAX_CONNECTIONS", ""),
    ]));
    assert_eq!(loaded.unwrap(), Config::default());
    let dir = tempfile::tempdir().unwrap();
    let zoned = file(dir.path(), "[cluster]\nzone = \"a\"");
    let nowhere =
        ConfigSources { environment: variables(&[("EMBERLINE_CLUSTER__ZONE", "")]).environment, ..zoned };
    assert_eq!(Config::load(&nowhere).unwrap().cluster.zone, "");
    let error = Config::load(&file(dir.path(), "data_dir = \"\"")).unwrap_err();
    assert!(error.to_string().contains("data_dir is empty"), "{error}");
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let secret = private(dir.path(), "secret", "x", 0o600);
    let secret = secret.to_str().unwrap();
    let cases: &[&[(&str, &str)]] = &[
        &[("EMBERLINE_CLUSTER__SEEDS", "nohost")],
        &[("EMBERLINE_CLUSTER__SEEDS", "host:0")],
        &[("EMBERLINE_CLUSTER__SEEDS", ":7581")],
        &[("EMBERLINE_CLUSTER__WEIGHT", "0")],
        &[(
            "EMBERLINE_CLUSTER__NAME",
            "n23456789012345678901234567890123456789012345678901234567890123456789",
        )],
        &[("EMBERLINE_CLUSTER__CA_FILE", "/ca.pem")],
        &[("EMBERLINE_CLUSTER__CA_FILE", "/ca.pem"), ("EMBERLINE_CLUSTER__SECRET_FILE", secret)],
        &[("EMBERLINE_HTTP__MAX_CONNECTIONS", "0")],
        &[("EMBERLINE_HTTP__IDLE_TIMEOUT", "0s")],
        &[("EMBERLINE_HTTP__DRAIN_TIMEOUT", "20s")],
        &[("EMBERLINE_LOG__LEVEL", "info,=;=")],
        &[("EMBERLINE_ORIGINS__MAX_CONCURRENT_REQUESTS", "0")],
    ];
    for case in cases {
        let error = Config::load(&variables(case)).expect_err(&format!("{case:?}"));
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

/// Takes the `#` off keys that are not set by default.
fn uncommented(text: &str) -> String {
    let is_key = |line: &str| {
        line.strip_prefix('#')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.contains(" = "))
    };
    text.lines().map(|line| if is_key(line) { &line[1..] } else { line }).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_is_complete_and_says_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Config::load(&file(dir.path(), &Config::example())).unwrap(), Config::default());

    let mut known = Vec::new();
    sources::key_paths("", &serde_json::to_value(Config::default()).unwrap(), &mut known);
    let mut written = Vec::new();
    let example: serde_json::Value = toml::from_str(&uncommented(&Config::example())).unwrap();
    sources::key_paths("", &example, &mut written);
    known.sort();
    written.sort();
    assert_eq!(written, known, "the keys of config/example.rs on the left, those of the types on the right");
}
