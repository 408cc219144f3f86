//! Certificates of a cluster: a CA, and one certificate a node, for mutual TLS between the nodes. A node's
//! certificate also serves its clients if the configuration names no other.

use super::CliError;
use crate::files;
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum PkiCommand {
    /// Make a CA: ca.pem and ca.key. Keep the key off the nodes.
    Ca {
        #[arg(long)]
        out: PathBuf,
    },
    /// Make a node's certificate: NAME.pem and NAME.key.
    Node {
        /// Directory of the CA.
        #[arg(long)]
        ca: PathBuf,
        #[arg(long)]
        name: String,
        #[arg(long)]
        out: PathBuf,
        /// Further DNS names or addresses, by which clients know the node.
        #[arg(long, value_delimiter = ',', default_value = "localhost,127.0.0.1")]
        san: Vec<String>,
    },
}

pub fn run(command: PkiCommand) -> Result<(), CliError> {
    let (made, what) = match command {
        PkiCommand::Ca { out } => (files::make_ca(&out), out.join("ca.pem")),
        PkiCommand::Node { ca, name, out, san } => {
            (files::make_node_certificate(&ca, &name, &out, &san), out.join(format!("{name}.pem")))
        }
    };
    if !made.map_err(CliError::new)? {
        return Err(CliError(format!("{} exists; remove it to make a new one", what.display())));
    }
    println!("{}", what.display());
    Ok(())
}
