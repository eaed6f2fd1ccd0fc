//! Azure Blob Storage: Azurite.

use std::{path::Path, process::Command};

use super::{
    Result,
    cache::{node_modules, run_python},
    server::{Server, accepts},
};

/// The account and key that every Azurite has; they are published with it and open nothing else.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

const UPLOAD: &str = "
import base64, hashlib, hmac, os, sys, urllib.parse, urllib.request
from email.utils import formatdate
base, account, key, container, folder, prefix, access = sys.argv[1:]
def put(path, query, headers, body):
    headers = dict(headers, **{'x-ms-date': formatdate(usegmt=True), 'x-ms-version': '2021-08-06'})
    canonical = ''.join(f'{k}:{headers[k]}\\n' for k in sorted(headers) if k.startswith('x-ms-'))
    resource = f'/{account}/{account}{path}' + ''.join(f'\\n{k}:{v}' for k, v in sorted(query.items()))
    length = str(len(body)) if body else ''
    text = f'PUT\\n\\n\\n{length}\\n\\napplication/octet-stream\\n\\n\\n\\n\\n\\n\\n{canonical}{resource}'
    signature = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
    headers |= {'Authorization': f'SharedKey {account}:{signature}', 'Content-Length': str(len(body)),
        'Content-Type': 'application/octet-stream'}
    url = f'{base}{path}' + ('?' + urllib.parse.urlencode(query) if query else '')
    try:
        urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers, method='PUT')).read()
    except urllib.error.HTTPError as e:
        if e.code != 409: raise SystemExit(f'{e}: {e.read()}')
put(f'/{container}', {'restype': 'container'}, {'x-ms-blob-public-access': access} if access else {}, b'')
for root, _, names in os.walk(folder, followlinks=True):
    for name in names:
        path = os.path.join(root, name)
        key_name = urllib.parse.quote(prefix + os.path.relpath(path, folder))
        put(f'/{container}/{key_name}', {}, {'x-ms-blob-type': 'BlockBlob'}, open(path, 'rb').read())
";

/// An Azurite with its usual account.
#[derive(Debug)]
pub struct Azurite(Server);

impl Azurite {
    /// Starts one; empty.
    ///
    /// # Errors
    /// What is missing.
    pub fn start() -> Result<Self> {
        let program = node_modules()?.join("azurite/dist/src/blob/main.js");
        let server = Server::start(
            "azurite",
            |port, dir| {
                let mut command = Command::new("node");
                command.arg(&program).args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
                command.args(["--skipApiVersionCheck", "--disableTelemetry", "--location"]).arg(dir);
                Ok(command)
            },
            accepts,
        )?;
        Ok(Self(server))
    }

    /// Base URL of the account.
    pub fn url(&self) -> String {
        format!("{}/{ACCOUNT}", self.0.url())
    }

    /// Its account.
    pub fn account(&self) -> &'static str {
        ACCOUNT
    }

    /// The account's key.
    pub fn key(&self) -> &'static str {
        KEY
    }

    /// Puts a folder below `prefix` of a container, which is made if need be; anyone may read it if `public`.
    ///
    /// # Errors
    /// What the server says.
    pub fn upload(&self, container: &str, folder: &Path, prefix: &str, public: bool) -> Result<()> {
        let folder = folder.to_str().ok_or("the folder's name is not UTF-8")?;
        let access = if public { "container" } else { "" };
        let arguments = [self.url(), ACCOUNT.into(), KEY.into(), container.into()];
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.extend([folder, prefix, access]);
        run_python(UPLOAD, &arguments, &[]).map(drop)
    }
}
