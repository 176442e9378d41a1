//! A server, its control plane and its volume plug-in in this process, and requests to them as a client sends them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arbitrary::Arbitrary;
use cairn_client::{ConnectOptions, ServerAddress};
use cairn_containers::volume_plugin::{PluginOptions, VolumePlugin};
use cairn_control::http::{HttpLimits, HttpServer};
use cairn_control::service::{Service, ServiceOptions};
use cairn_server::{Server, ServerConfig};
use serde_json::{Map, Value};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// After so many requests everything is made anew, so that what they make does not pile up.
const REQUESTS_MAX: usize = 1000;

/// What answers.
pub struct World {
    requests: usize,
    http: TcpStream,
    plugin: PathBuf,
    key: String,
    // Ended in this order.
    _runtime: Runtime,
    _directory: TempDir,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl World {
    /// `world`, or another if that one has had its time.
    pub fn fresh(world: Option<World>) -> World {
        match world {
            Some(mut world) if world.requests < REQUESTS_MAX => {
                world.requests += 1;
                world
            }
            _ => World::new(),
        }
    }

    fn new() -> World {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        let plugin = directory.path().join("plugin.sock");
        let (address, key): (SocketAddr, String) = runtime.block_on(async {
            let server = Server::start(ServerConfig::new(directory.path().join("data"))).await.expect("a server");
            let options = ServiceOptions::default();
            let service = Service::open(Arc::clone(server.state()), options, None).await.expect("a service");
            let key = std::fs::read_to_string(service.key_file()).expect("an operator's key").trim().to_owned();
            let local = SocketAddr::from(([127, 0, 0, 1], 0));
            let http = HttpServer::start(service, local, HttpLimits::default()).await.expect("listening");
            let options = PluginOptions {
                socket: plugin.clone(),
                state: directory.path().join("plugin"),
                connect: ConnectOptions::new(ServerAddress::Unix(directory.path().join("data/cairn.sock"))),
                // No target mounts anything.
                program: PathBuf::from("/bin/false"),
                default_size: 1 << 30,
            };
            let plugin = VolumePlugin::start(options).await.expect("listening");
            let address = http.address();
            tokio::spawn(async move {
                // Kept until the runtime ends.
                let _kept = (server, http);
                plugin.serve(std::future::pending()).await;
            });
            (address, key)
        });
        let http = TcpStream::connect(address).expect("connected");
        http.set_read_timeout(Some(Duration::from_secs(15))).expect("set");
        World { requests: 0, http, plugin, key, _runtime: runtime, _directory: directory }
    }

    /// Asks the control plane, with the operator's key.
    pub fn control_plane(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        let address = self.http.peer_addr().expect("connected");
        let extra = format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", self.key);
        // The server closes connections, too: once more on a new one.
        exchange(&mut self.http, method, path, &extra, body).unwrap_or_else(|_| {
            self.http = TcpStream::connect(address).expect("connected");
            exchange(&mut self.http, method, path, &extra, body).expect("answered")
        })
    }

    /// Asks the volume plug-in.
    pub fn plugin(&self, path: &str, body: &[u8]) -> Answer {
        let mut stream = UnixStream::connect(&self.plugin).expect("connected");
        exchange(&mut stream, "POST", path, "", body).expect("answered")
    }
}

fn exchange(
    stream: &mut (impl Read + Write),
    method: &str,
    path: &str,
    extra: &str,
    body: &[u8],
) -> std::io::Result<Answer> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: cairn\r\n{extra}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let bad = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(bad)?;
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(|_| bad())?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Answer { status, body })
}

/// A request's body: any bytes, or an object that comes through the parser and has keys of the APIs.
#[derive(Arbitrary, Debug)]
pub enum Body {
    Bytes(Vec<u8>),
    Object(Vec<(u8, Field)>),
}

/// A value in a body.
#[derive(Arbitrary, Debug)]
pub enum Field {
    Null,
    Flag(bool),
    Number(i64),
    Small(u8),
    Fraction(f64),
    Text(String),
    Known(u8),
    List(Vec<Field>),
    Object(Vec<(u8, Field)>),
}

impl Body {
    pub fn encode(self, keys: &[&str], words: &[&str]) -> Vec<u8> {
        match self {
            Body::Bytes(bytes) => bytes,
            Body::Object(fields) => object(fields, keys, words).to_string().into_bytes(),
        }
    }
}

fn object(fields: Vec<(u8, Field)>, keys: &[&str], words: &[&str]) -> Value {
    let fields = fields.into_iter().map(|(key, field)| {
        let key = keys[usize::from(key) % keys.len()].to_owned();
        (key, field.value(keys, words))
    });
    Value::Object(fields.collect::<Map<_, _>>())
}

impl Field {
    fn value(self, keys: &[&str], words: &[&str]) -> Value {
        match self {
            Field::Null => Value::Null,
            Field::Flag(flag) => flag.into(),
            Field::Number(number) => number.into(),
            Field::Small(number) => number.into(),
            Field::Fraction(number) => number.into(),
            Field::Text(text) => text.into(),
            Field::Known(word) => words[usize::from(word) % words.len()].into(),
            Field::List(fields) => fields.into_iter().map(|field| field.value(keys, words)).collect(),
            Field::Object(fields) => object(fields, keys, words),
        }
    }
}
