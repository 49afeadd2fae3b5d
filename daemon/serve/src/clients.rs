//! Limits on simultaneous connections and requests. Each client has a share, so that none can shut
//! out the others.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum_server::accept::Accept;
use diptych_schemas::HttpConfig;
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Connections for each request that may be answered at once. Most connections wait for their next
/// request.
const CONNECTIONS_A_REQUEST: usize = 4;

/// The origin of a request, as far as limits are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// The holder of a token, by its hash.
    Token([u8; 32]),
    /// A network address. For IPv6 it is the network of 64 bits, which one machine has.
    Address(IpAddr),
    /// Anyone who may open the service's Unix socket. They are not told apart, so each may use all
    /// places.
    Socket,
}

impl Client {
    fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() & (u128::MAX << 64)).into(),
            four @ IpAddr::V4(_) => four,
        })
    }
}

impl Connected<SocketAddr> for Client {
    fn connect_info(address: SocketAddr) -> Self {
        Self::at(address.ip())
    }
}

impl Connected<std::os::unix::net::SocketAddr> for Client {
    fn connect_info(_: std::os::unix::net::SocketAddr) -> Self {
        Self::Socket
    }
}

/// Places that clients take. Each client may have only a part of them.
#[derive(Debug)]
pub(crate) struct Places {
    all: usize,
    of_client: usize,
    taken: Mutex<HashMap<Client, usize>>,
}

/// The reason why there is no free place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    AllTaken,
    ClientShareTaken,
}

impl Places {
    fn new(all: usize, http: &HttpConfig) -> Arc<Self> {
        Arc::new(Self { all, of_client: http.share_of(all), taken: Mutex::default() })
    }

    /// Returns the places for requests.
    pub(crate) fn of_requests(http: &HttpConfig) -> Arc<Self> {
        Self::new(http.concurrent, http)
    }

    /// Returns the places for connections. They use at most half of the files that this process may
    /// open, since trainings open files too.
    pub(crate) fn of_connections(http: &HttpConfig) -> Arc<Self> {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / 2;
        let most = http.concurrent.saturating_mul(CONNECTIONS_A_REQUEST);
        Self::new(most.min(usize::try_from(files).unwrap_or(usize::MAX)).max(1), http)
    }

    pub(crate) fn take(self: &Arc<Self>, client: Client) -> Result<Place, NoPlace> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= self.all {
            return Err(NoPlace::AllTaken);
        }
        let own = taken.get(&client).copied().unwrap_or_default();
        if own >= self.of_client && client != Client::Socket {
            return Err(NoPlace::ClientShareTaken);
        }
        taken.insert(client, own + 1);
        Ok(Place { places: Arc::clone(self), client })
    }
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    client: Client,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.client) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                taken.remove(&self.client);
            }
        }
    }
}

/// A connection whose client is known.
pub(crate) trait Peer {
    fn client(&self) -> Client;
}

impl Peer for TcpStream {
    fn client(&self) -> Client {
        // A connection that was closed already has no address, and ends with the first read.
        self.peer_addr().map_or(Client::Socket, |address| Client::at(address.ip()))
    }
}

impl Peer for UnixStream {
    fn client(&self) -> Client {
        Client::Socket
    }
}

/// Accepts a connection if its client has a free place, and closes it otherwise.
#[derive(Clone, Debug)]
pub(crate) struct CountingAcceptor(pub(crate) Arc<Places>);

impl<I: Peer, S> Accept<I, S> for CountingAcceptor {
    type Stream = Counted<I>;
    type Service = S;
    type Future = Ready<io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        ready(match self.0.take(stream.client()) {
            Ok(place) => Ok((Counted { stream, _place: place }, service)),
            Err(_) => Err(io::Error::other("too many connections at once")),
        })
    }
}

/// A connection together with its place.
pub(crate) struct Counted<I> {
    stream: I,
    _place: Place,
}

impl<I: AsyncRead + Unpin> AsyncRead for Counted<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Counted<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_share_and_leaves_the_rest_to_others() {
        let http = HttpConfig { concurrent: 8, ..HttpConfig::default() };
        let places = Places::of_requests(&http);
        let at = |text: &str| Client::at(text.parse().unwrap());
        let one =
            [at("10.0.0.1"), at("::ffff:10.0.0.1")].map(|client| places.take(client).unwrap());
        assert_eq!(places.take(at("10.0.0.1")).unwrap_err(), NoPlace::ClientShareTaken);
        let token = [1, 2].map(|_| places.take(Client::Token([7; 32])).unwrap());
        assert_eq!(places.take(Client::Token([7; 32])).unwrap_err(), NoPlace::ClientShareTaken);
        let six = ["2001:db8::1", "2001:db8::ffff:2"].map(|text| places.take(at(text)).unwrap());
        assert_eq!(places.take(at("2001:db8::3")).unwrap_err(), NoPlace::ClientShareTaken);
        let socket = [1, 2].map(|_| places.take(Client::Socket).unwrap());
        assert_eq!(places.take(at("10.0.0.2")).unwrap_err(), NoPlace::AllTaken);
        drop(one);
        let again = places.take(at("10.0.0.1")).unwrap();
        drop((token, six, socket, again));
        assert!(places.taken.lock().unwrap().is_empty());
        // Even the smallest limit admits a client.
        let one = Places::of_requests(&HttpConfig { concurrent: 1, ..HttpConfig::default() });
        assert!(one.take(at("10.0.0.1")).is_ok());
    }
}
