//! Listening on TCP or on a Unix socket, with or without TLS.

use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::extract::connect_info::Connected;
use axum_server::tls_rustls::RustlsConfig;
use axum_server::{Address, Control, Handle};
use diptych_schemas::{HttpConfig, Listen, SchemaError, TlsConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

use crate::clients::{Client, CountingAcceptor, Peer, Places};
use crate::socket::{SOCKET, SocketPath};

/// Interval of HTTP/2 keep-alive pings, and the time that the peer has to answer one.
const STILL_THERE: Duration = Duration::from_secs(20);
/// Permissions of a Unix socket: the user of the service and its group may connect.
const SOCKET_MODE: u32 = 0o660;
/// Permissions of the socket in a state folder: only its owner may connect.
const PRIVATE_MODE: u32 = 0o600;

/// A running server.
pub(super) struct Server {
    /// The address that clients use.
    pub(super) address: String,
    pub(super) control: Control,
    pub(super) ended: JoinHandle<anyhow::Result<()>>,
}

/// Listens, and starts to answer.
pub(super) async fn bind(
    listen: &Listen,
    tls: Option<&TlsConfig>,
    http: &HttpConfig,
    router: Router,
) -> anyhow::Result<Server> {
    let tls = match tls {
        Some(TlsConfig { certificate, key }) => {
            let config = RustlsConfig::from_pem_file(certificate, key).await;
            let (certificate, key) = (certificate.display(), key.display());
            Some(config.with_context(|| {
                format!("cannot use the TLS certificate {certificate} with the key {key}")
            })?)
        }
        None => None,
    };
    let control = Control::new();
    let scheme = if tls.is_some() { "https" } else { "http" };
    match listen {
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address)
                .with_context(|| format!("cannot listen on {address}"))?;
            listener.set_nonblocking(true).context("cannot make the listener non-blocking")?;
            let address = format!(
                "{scheme}://{}",
                listener.local_addr().context("cannot read the listener's address")?
            );
            let server =
                axum_server::from_tcp(listener)?.handle(Handle::with_control(control.clone()));
            Ok(Server { address, control, ended: start(server, tls, http, router) })
        }
        Listen::Unix(path) => {
            // Clients in other folders read this path.
            let path = &std::path::absolute(path).with_context(|| path.display().to_string())?;
            let server = axum_server::from_unix(socket(path, SOCKET_MODE)?)?;
            let server = server.handle(Handle::with_control(control.clone()));
            Ok(Server {
                address: format!("unix:{}", path.display()),
                control,
                ended: start(server, tls, http, router),
            })
        }
    }
}

/// Listens on the socket in a state folder that this process owns. Only this user can connect to
/// it.
pub(super) fn bind_in_state(
    state: &Path,
    http: &HttpConfig,
    router: Router,
) -> anyhow::Result<Server> {
    let control = Control::new();
    let server = axum_server::from_unix(socket(&state.join(SOCKET), PRIVATE_MODE)?)?;
    let server = server.handle(Handle::with_control(control.clone()));
    // Other processes may see the folder at another path.
    let address = format!("unix:{SOCKET}");
    Ok(Server { address, control, ended: start(server, None, http, router) })
}

fn start<A>(
    server: axum_server::Server<A>,
    tls: Option<RustlsConfig>,
    http: &HttpConfig,
    router: Router,
) -> JoinHandle<anyhow::Result<()>>
where
    A: Address + Send + 'static,
    A::Stream: AsyncRead + AsyncWrite + Unpin + Send + Peer + 'static,
    A::Listener: Send,
    Client: Connected<A>,
{
    let headers_within = Duration::from_secs(http.header_seconds);
    let mut server = server.first_request_timeout(headers_within);
    server.http_builder().http1().header_read_timeout(headers_within);
    server.http_builder().http2().keep_alive_interval(STILL_THERE).keep_alive_timeout(STILL_THERE);
    let counting = CountingAcceptor(Places::of_connections(http));
    let service = router.into_make_service_with_connect_info::<Client>();
    tokio::spawn(async move {
        match tls {
            None => server.acceptor(counting).serve(service).await,
            Some(config) => {
                // It allows 10 seconds for a handshake.
                let tls = axum_server::tls_rustls::RustlsAcceptor::new(config);
                server.acceptor(tls.acceptor(counting)).serve(service).await
            }
        }
        .context("the server failed")
    })
}

/// Binds a socket to this path. A socket that a killed process left is replaced; one that answers
/// is not.
fn socket(path: &Path, mode: u32) -> anyhow::Result<UnixListener> {
    let near = SocketPath::new(path).with_context(|| path.display().to_string())?;
    if let Ok(there) = std::fs::symlink_metadata(near.path()) {
        if !there.file_type().is_socket() {
            bail!("{}: exists and is not a socket; name another path in `listen`", path.display());
        }
        if UnixStream::connect(near.path()).is_ok() {
            bail!(
                "{}: another process answers there; stop it, or name another path in `listen`",
                path.display()
            );
        }
        std::fs::remove_file(near.path()).map_err(SchemaError::io(path))?;
    }
    let listener = UnixListener::bind(near.path())
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(near.path(), std::fs::Permissions::from_mode(mode))
        .map_err(SchemaError::io(path))?;
    listener.set_nonblocking(true).context("cannot make the listener non-blocking")?;
    Ok(listener)
}
