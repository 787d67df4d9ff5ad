//! Connections over HTTPS without encryption, for a server without certificates.

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport};

/// Opens connections that the client takes for encrypted ones.
#[derive(Debug, Default)]
pub(super) struct Unencrypted(TcpConnector);

impl Connector for Unencrypted {
    type Out = AsIfEncrypted<<TcpConnector as Connector>::Out>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<()>) -> Result<Option<Self::Out>, Error> {
        Ok(self.0.connect(details, chained)?.map(AsIfEncrypted))
    }
}

#[derive(Debug)]
pub(super) struct AsIfEncrypted<T>(T);

impl<T: Transport> Transport for AsIfEncrypted<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
