//! The lab's certificate authority and who gets which kubeconfig. Keys stay with the lab's durable state;
//! only the administrator's kubeconfig leaves it.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;

use weft_apiserver::{Pki, PkiError, SubjectName, kubeconfig};

use super::paths;
use super::plan::{NodePlan, Plan};

/// The group that may do everything (Kubernetes' RBAC reference, "Default roles").
const MASTERS: &str = "system:masters";
/// The group of kubelets (Kubernetes' "Using Node Authorization").
const NODES: &str = "system:nodes";

/// The authority of one lab.
pub(super) struct Credentials {
    pki: Pki,
    lab: String,
    inside: String,
}

impl Credentials {
    /// The authority that the lab has, or a new one, saved for the API server; and the
    /// controllers' kubeconfig.
    pub(super) fn new(plan: &Plan) -> Result<Self, PkiError> {
        let pki = Pki::load_or_generate(&paths::pki(), &format!("weft-lab-{}", plan.name))?;
        let credentials = Credentials {
            pki,
            lab: format!("weft-{}", plan.name),
            inside: plan.api_url_inside(),
        };
        let text = credentials.kubeconfig(
            &credentials.inside,
            "system:kube-controller-manager",
            MASTERS,
        )?;
        let path = paths::controllers_kubeconfig();
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
            .map_err(|source| PkiError::File { path, source })?;
        Ok(credentials)
    }

    /// The kubeconfig for people, through the machine's loopback.
    pub(super) fn administrator(&self, port: u16) -> Result<String, PkiError> {
        let server = format!("https://127.0.0.1:{port}");
        self.kubeconfig(&server, "kubernetes-admin", MASTERS)
    }

    /// A node's kubeconfig.
    pub(super) fn kubelet(&self, node: &str) -> Result<String, PkiError> {
        self.kubeconfig(&self.inside, &format!("system:node:{node}"), NODES)
    }

    /// Certificate and key of a node's own server, for its name and addresses.
    pub(super) fn serving(&self, node: &NodePlan) -> Result<String, PkiError> {
        let names: Vec<SubjectName> = std::iter::once(SubjectName::Dns(node.name.clone()))
            .chain(node.addresses.iter().map(|one| SubjectName::Ip(one.addr())))
            .collect();
        let own = self.pki.server(&names)?;
        Ok(own.certificate + &own.key)
    }

    fn kubeconfig(&self, server: &str, user: &str, group: &str) -> Result<String, PkiError> {
        let client = self.pki.client(user, group)?;
        Ok(kubeconfig(
            &self.lab,
            server,
            self.pki.ca_certificate(),
            &client,
        ))
    }
}
