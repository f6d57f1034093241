//! The control socket: JSON lines between the long-lived service and the commands that ask it.
//!
//! One request line, then any number of answer lines. Only the socket's owner may connect (mode 0600).

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// The longest line that is read; a request is a few hundred bytes.
const MAX_LINE: u64 = 16 * 1024 * 1024;

/// What can go wrong at the control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A live server has the socket.
    #[error("another server already answers at {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The path is taken by something that is no socket.
    #[error("{} is there and is not a socket; it was left alone", path.display())]
    NotASocket {
        /// What is there.
        path: PathBuf,
    },
    /// Nobody listens.
    #[error("no server answers at {}", path.display())]
    NoServer {
        /// The socket.
        path: PathBuf,
        /// Why the connection failed.
        source: io::Error,
    },
    /// The socket could not be made or used.
    #[error("cannot {act} the control socket {}: {source}", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A line that is not JSON, or too long.
    #[error("the other side of the control socket sent a line that is not JSON: {source}")]
    NotJson {
        /// Where it stops being JSON.
        source: serde_json::Error,
    },
    /// The other side went away, or its line did not come in time.
    #[error("the other side of the control socket went away: {source}")]
    Gone {
        /// The system's answer.
        source: io::Error,
    },
}

/// How long a reader may take nothing before it counts as gone.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// The server's end. Dropped, it removes its socket file.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket file that is ours.
    file: (u64, u64),
}

/// One client that is connected.
#[derive(Debug)]
pub struct Session {
    reader: BufReader<UnixStream>,
}

/// The asking end.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
}

impl Control {
    /// Listens at `path`. A socket file whose server is dead is replaced.
    ///
    /// # Errors
    /// [`ControlError::InUse`] when a server answers there, [`ControlError::NotASocket`], [`ControlError::Io`].
    pub fn bind(path: &Path) -> Result<Control, ControlError> {
        let fail = |act| move |source| ControlError::Io { act, path: path.to_owned(), source };
        let near = Near::open(path).map_err(fail("reach the folder of"))?;
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail("look at")(error)),
            Ok(there) => {
                use std::os::unix::fs::FileTypeExt;
                if !there.file_type().is_socket() {
                    return Err(ControlError::NotASocket { path: path.to_owned() });
                }
                match UnixStream::connect(near.path()) {
                    Ok(_) => return Err(ControlError::InUse { path: path.to_owned() }),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        fs::remove_file(near.path()).map_err(fail("remove the dead server's"))?;
                    }
                    // Another server has just taken the dead one's file away.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    // A full backlog (EAGAIN) or missing rights: it is not proved dead.
                    Err(error) => return Err(fail("see whether a server answers at")(error)),
                }
            }
        }
        // Made under another name and moved: nobody can connect before the mode is right.
        let draft = near.sibling(&format!(".control-{}", std::process::id()));
        let _ = fs::remove_file(&draft);
        let listener = UnixListener::bind(&draft).map_err(fail("make"))?;
        let placed = fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::hard_link(&draft, near.path()));
        let _ = fs::remove_file(&draft);
        placed.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => ControlError::InUse { path: path.to_owned() },
            _ => fail("make")(source),
        })?;
        let file = fs::symlink_metadata(near.path()).map_err(fail("look at"))?;
        Ok(Control { listener, path: path.to_owned(), file: (file.dev(), file.ino()) })
    }

    /// Waits for the next client.
    ///
    /// # Errors
    /// [`ControlError::Io`] when the socket itself is broken.
    pub fn accept(&self) -> Result<Session, ControlError> {
        let (stream, _) = self.listener.accept().map_err(|source| ControlError::Io {
            act: "accept at",
            path: self.path.clone(),
            source,
        })?;
        Ok(Session { reader: BufReader::new(stream) })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.file);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Session {
    /// The client's one request. A client that says nothing for `patience` is given up.
    ///
    /// # Errors
    /// [`ControlError::NotJson`], [`ControlError::Gone`].
    pub fn request(&mut self, patience: Duration) -> Result<Value, ControlError> {
        self.reader
            .get_ref()
            .set_read_timeout(Some(patience))
            .map_err(|source| ControlError::Gone { source })?;
        read_line(&mut self.reader)
            .unwrap_or_else(|| Err(ControlError::Gone { source: io::ErrorKind::UnexpectedEof.into() }))
    }

    /// Writes one answer line.
    ///
    /// # Errors
    /// [`ControlError::Gone`] when the client has left; what the server does goes on.
    pub fn send(&mut self, line: &Value) -> Result<(), ControlError> {
        write_line(self.reader.get_ref(), line)
    }
}

/// The writing end of a connection, for another thread than the one that reads.
#[derive(Debug)]
pub struct Writer {
    stream: UnixStream,
}

impl Writer {
    /// Writes one line. A reader that takes nothing for some seconds counts as gone: what the writer does must
    /// not wait for it.
    ///
    /// # Errors
    /// [`ControlError::Gone`] when the other side has left.
    pub fn send(&mut self, line: &Value) -> Result<(), ControlError> {
        write_line(&self.stream, line)
    }
}

fn writer(reader: &BufReader<UnixStream>) -> Result<Writer, ControlError> {
    let gone = |source| ControlError::Gone { source };
    let stream = reader.get_ref().try_clone().map_err(gone)?;
    stream.set_write_timeout(Some(WRITE_PATIENCE)).map_err(gone)?;
    Ok(Writer { stream })
}

impl Session {
    /// A writing end of its own.
    ///
    /// # Errors
    /// [`ControlError::Gone`] when the client has left.
    pub fn writer(&self) -> Result<Writer, ControlError> {
        writer(&self.reader)
    }

    /// Waits for what the client says after its request; `None` when it has left.
    pub fn next_word(&mut self) -> Option<Value> {
        self.reader.get_ref().set_read_timeout(None).ok()?;
        read_line(&mut self.reader)?.ok()
    }
}

impl Client {
    /// A writing end of its own.
    ///
    /// # Errors
    /// [`ControlError::Gone`] when the server has left.
    pub fn writer(&self) -> Result<Writer, ControlError> {
        writer(&self.reader)
    }
}

/// Connects to the server at `path`.
///
/// # Errors
/// [`ControlError::NoServer`] when nobody listens there, [`ControlError::Io`] otherwise.
pub fn connect(path: &Path) -> Result<Client, ControlError> {
    let stream = Near::open(path).and_then(|near| UnixStream::connect(near.path()));
    match stream {
        Ok(stream) => Ok(Client { reader: BufReader::new(stream) }),
        Err(source)
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
        {
            Err(ControlError::NoServer { path: path.to_owned(), source })
        }
        Err(source) => Err(ControlError::Io { act: "connect to", path: path.to_owned(), source }),
    }
}

impl Client {
    /// Sends the request.
    ///
    /// # Errors
    /// [`ControlError::Gone`].
    pub fn send(&mut self, request: &Value) -> Result<(), ControlError> {
        write_line(self.reader.get_ref(), request)
    }
}

/// The server's answer lines, until it closes.
impl Iterator for Client {
    type Item = Result<Value, ControlError>;

    fn next(&mut self) -> Option<Self::Item> {
        read_line(&mut self.reader)
    }
}

fn read_line(reader: &mut BufReader<UnixStream>) -> Option<Result<Value, ControlError>> {
    let mut line = Vec::new();
    match io::Read::take(reader, MAX_LINE).read_until(b'\n', &mut line) {
        Ok(0) => None,
        Ok(_) => Some(serde_json::from_slice(&line).map_err(|source| ControlError::NotJson { source })),
        Err(source) => Some(Err(ControlError::Gone { source })),
    }
}

fn write_line(mut stream: &UnixStream, line: &Value) -> Result<(), ControlError> {
    let mut text = line.to_string();
    text.push('\n');
    stream.write_all(text.as_bytes()).map_err(|source| ControlError::Gone { source })
}

/// A socket's path as the kernel can take it: 107 bytes at most, so the folder goes by its descriptor.
struct Near {
    folder: File,
    name: String,
}

impl Near {
    fn open(path: &Path) -> io::Result<Near> {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name"))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::DIRECTORY.bits() as i32)
            .open(parent)?;
        Ok(Near { folder, name: name.to_owned() })
    }

    fn path(&self) -> PathBuf {
        self.sibling(&self.name)
    }

    fn sibling(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.folder.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use serde_json::json;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn round_trip(path: &Path) {
        let control = Control::bind(path).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut session = control.accept().unwrap();
                let request = session.request(PATIENCE).unwrap();
                assert_eq!(request, json!({"do": "deploy", "text": "a\nb"}));
                for number in 0..3 {
                    session.send(&json!({ "event": number })).unwrap();
                }
            });
            let mut client = connect(path).unwrap();
            client.send(&json!({"do": "deploy", "text": "a\nb"})).unwrap();
            let lines: Vec<Value> = client.map(Result::unwrap).collect();
            assert_eq!(lines, [json!({"event": 0}), json!({"event": 1}), json!({"event": 2})]);
        });
    }

    #[test]
    fn a_request_and_its_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        round_trip(&path);
        assert!(!path.exists(), "the socket file stays behind");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_path_longer_than_the_kernel_takes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a".repeat(120)).join("b".repeat(120));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("control.sock");
        assert!(UnixListener::bind(&path).is_err(), "no trick is needed");
        round_trip(&path);
    }

    #[test]
    fn only_its_owner_may_connect() {
        let dir = tempfile::tempdir().unwrap();
        let control = Control::bind(&dir.path().join("s")).unwrap();
        let mode = fs::metadata(control.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_dead_servers_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        assert!(matches!(connect(&path), Err(ControlError::NoServer { .. })));
        round_trip(&path);
    }

    #[test]
    fn a_live_server_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = Control::bind(&path).unwrap();
        let error = Control::bind(&path).unwrap_err();
        assert!(matches!(error, ControlError::InUse { .. }));
        assert!(error.to_string().contains("another server already answers at /"), "{error}");
        // The look at it was a connection without a request.
        assert!(matches!(first.accept().unwrap().request(PATIENCE), Err(ControlError::Gone { .. })));
        assert!(connect(&path).is_ok());
    }

    #[test]
    fn something_else_at_the_path_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "data").unwrap();
        assert!(matches!(Control::bind(&path), Err(ControlError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn an_old_server_does_not_remove_its_successors_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = Control::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = Control::bind(&path).unwrap();
        drop(first);
        assert!(connect(&path).is_ok());
    }

    #[test]
    fn nobody_there_and_nonsense_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert!(matches!(connect(&path), Err(ControlError::NoServer { .. })));
        assert!(matches!(Control::bind(&dir.path().join("no/s")), Err(ControlError::Io { .. })));
        let control = Control::bind(&path).unwrap();
        let client = connect(&path).unwrap();
        client.reader.get_ref().write_all(b"{not json\n").unwrap();
        let mut session = control.accept().unwrap();
        assert!(matches!(session.request(PATIENCE), Err(ControlError::NotJson { .. })));
        let silent = connect(&path).unwrap();
        let mut session = control.accept().unwrap();
        assert!(matches!(session.request(Duration::from_millis(50)), Err(ControlError::Gone { .. })));
        drop((client, silent));
    }
}
