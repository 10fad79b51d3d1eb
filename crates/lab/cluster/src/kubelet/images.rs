//! The lab's image table: nothing is pulled, an image's name selects a program of this machine.

/// The folders searched for a program, as images of Debian have them.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What stands in for a container image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// Names it answers to, without registry, tag and digest. `weft/echo` also matches
    /// `example.org/weft/echo:1`.
    pub names: &'static [&'static str],
    /// One line for a person.
    pub summary: &'static str,
    /// The image's entry point; a container's `command` replaces it and `arguments`.
    pub entrypoint: &'static [&'static str],
    /// The image's default arguments; a container's `args` replaces them.
    pub arguments: &'static [&'static str],
    /// The Debian package that has the program; empty for what is part of weft or of every system.
    pub package: &'static str,
    /// Files that the image has and the machine has not (or otherwise): path and content.
    pub files: &'static [(&'static str, &'static str)],
}

/// One worker, because the table's images serve a person's machine; root, because a lab of an
/// ordinary user knows no other id; the rest is laid out as people know it from the image:
/// servers in conf.d, Debian's own first page in /usr/share/nginx/html, logs on the container's
/// output.
const NGINX_CONF: &str = "\
user root;
worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events {
    worker_connections 1024;
}
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    log_format main '$remote_addr - $remote_user [$time_local] \"$request\" '
                    '$status $body_bytes_sent \"$http_referer\" '
                    '\"$http_user_agent\" \"$http_x_forwarded_for\"';
    access_log /dev/stdout main;
    sendfile on;
    keepalive_timeout 65;
    include /etc/nginx/conf.d/*.conf;
}
";

const NGINX_DEFAULT_SERVER: &str = "\
server {
    listen 80;
    listen [::]:80;
    server_name localhost;
    location / {
        root /usr/share/nginx/html;
        index index.html index.htm;
    }
    error_page 500 502 503 504 /50x.html;
    location = /50x.html {
        root /usr/share/nginx/html;
    }
}
";

/// Every image that the lab knows.
pub const IMAGES: &[Image] = &[
    Image {
        names: &["weft/echo", "echoserver", "http-echo"],
        summary: "HTTP on 8080: tells the pod, its node, its addresses and the client's",
        entrypoint: &["weft", "program", "echo"],
        arguments: &[],
        package: "",
        files: &[],
    },
    Image {
        names: &["weft"],
        summary: "weft itself: the arguments are its subcommand",
        entrypoint: &["weft"],
        arguments: &[],
        package: "",
        files: &[],
    },
    Image {
        names: &["serve_hostname", "serve-hostname"],
        summary: "HTTP on 9376: answers the pod's hostname",
        entrypoint: &["weft", "program", "serve-hostname"],
        arguments: &[],
        package: "",
        files: &[],
    },
    Image {
        names: &["agnhost", "netexec"],
        summary: "Kubernetes' test program: pause, serve-hostname and netexec",
        entrypoint: &["weft", "program", "agnhost"],
        arguments: &["pause"],
        package: "",
        files: &[],
    },
    Image {
        names: &["pause", "pause-amd64"],
        summary: "waits to be ended",
        entrypoint: &["weft", "program", "pause"],
        arguments: &[],
        package: "",
        files: &[],
    },
    Image {
        names: &["nginx", "nginx-unprivileged"],
        summary: "nginx on port 80, servers from /etc/nginx/conf.d, pages from /usr/share/nginx/html",
        entrypoint: &[],
        arguments: &["nginx", "-g", "daemon off;"],
        package: "nginx",
        files: &[
            ("/etc/nginx/nginx.conf", NGINX_CONF),
            ("/etc/nginx/conf.d/default.conf", NGINX_DEFAULT_SERVER),
        ],
    },
    Image {
        names: &["haproxy"],
        summary: "haproxy with /usr/local/etc/haproxy/haproxy.cfg",
        entrypoint: &[],
        arguments: &[
            "haproxy",
            "-W",
            "-db",
            "-f",
            "/usr/local/etc/haproxy/haproxy.cfg",
        ],
        package: "haproxy",
        files: &[],
    },
    Image {
        names: &["curl"],
        summary: "curl",
        entrypoint: &["curl"],
        arguments: &[],
        package: "curl",
        files: &[],
    },
    Image {
        names: &["busybox", "alpine"],
        summary: "a shell, with this machine's programs",
        entrypoint: &[],
        arguments: &["sh"],
        package: "",
        files: &[],
    },
    Image {
        names: &[
            "debian",
            "ubuntu",
            "centos",
            "fedora",
            "rockylinux",
            "bash",
            "netshoot",
            "dnsutils",
            "jessie-dnsutils",
        ],
        summary: "bash, with this machine's programs",
        entrypoint: &[],
        arguments: &["bash"],
        package: "bash",
        files: &[],
    },
    Image {
        names: &["python"],
        summary: "Python 3",
        entrypoint: &[],
        arguments: &["python3"],
        package: "python3",
        files: &[],
    },
];

/// Finds the entry for an image reference, such as `registry.k8s.io/pause:3.9` or
/// `nginx@sha256:…`. The longest matching name wins.
#[must_use]
pub fn find(reference: &str) -> Option<&'static Image> {
    let repository = repository(reference);
    IMAGES
        .iter()
        .flat_map(|image| image.names.iter().map(move |name| (name, image)))
        .filter(|(name, _)| {
            repository
                .strip_suffix(**name)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
        })
        .max_by_key(|(name, _)| name.len())
        .map(|(_, image)| image)
}

/// The reference without tag and digest.
fn repository(reference: &str) -> &str {
    let reference = reference.split('@').next().unwrap_or(reference);
    // A colon before the last slash belongs to the registry's port.
    match reference.rfind(':') {
        Some(colon) if !reference[colon..].contains('/') => &reference[..colon],
        Some(_) | None => reference,
    }
}

/// Why a container cannot run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The table has no such image, and the container names no command.
    #[error(
        "image {reference:?} is not in the lab's image table and nothing is pulled: use an image that `weft lab images` lists, or give the container a command of this machine"
    )]
    Image {
        /// As the pod has it.
        reference: String,
    },
    /// The table has the image, the machine has not its program.
    #[error(
        "image {reference:?} stands for the program {program}, which this machine does not have: install it (Debian package {package}); `weft lab images` lists what there is"
    )]
    Program {
        /// As the pod has it.
        reference: String,
        /// The program that was looked for.
        program: String,
        /// Where Debian has it.
        package: String,
    },
}

/// What to run for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Files to put into the container's root.
    pub files: &'static [(&'static str, &'static str)],
}

/// Combines image, `command` and `args` by Kubernetes' rules: `command` replaces entry point and
/// default arguments, `args` replaces the default arguments. `exists` tells whether the machine
/// has a program.
///
/// # Errors
/// [`Missing`], when there is nothing to run.
pub fn command(
    reference: &str,
    command: &[String],
    args: &[String],
    exists: impl Fn(&str) -> bool,
) -> Result<Command, Missing> {
    let image = find(reference);
    let files = image.map_or(&[][..], |image| image.files);
    if !command.is_empty() {
        let argv = command.iter().chain(args).cloned().collect();
        return Ok(Command { argv, files });
    }
    let image = image.ok_or_else(|| Missing::Image {
        reference: reference.to_owned(),
    })?;
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let mut argv: Vec<String> = owned(image.entrypoint);
    if args.is_empty() {
        argv.extend(owned(image.arguments));
    } else {
        argv.extend(args.iter().cloned());
    }
    let own = image.entrypoint.first().or(image.arguments.first());
    match own {
        Some(program) if !image.package.is_empty() && !exists(program) => Err(Missing::Program {
            reference: reference.to_owned(),
            program: (*program).to_owned(),
            package: image.package.to_owned(),
        }),
        Some(_) | None => Ok(Command { argv, files }),
    }
}

/// Whether one of [`PATH`]'s folders below `root` has the program.
#[must_use]
pub fn exists_on(root: &std::path::Path, program: &str) -> bool {
    if let Some(path) = program.strip_prefix('/') {
        return root.join(path).exists();
    }
    PATH.split(':')
        .any(|folder| root.join(&folder[1..]).join(program).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_name(reference: &str) -> Option<&'static str> {
        find(reference).map(|image| image.names[0])
    }

    #[test]
    fn registry_tag_and_digest_are_ignored() {
        for (reference, expected) in [
            ("nginx", Some("nginx")),
            ("nginx:1.25.2", Some("nginx")),
            ("docker.io/library/nginx:1.25.2@sha256:0123", Some("nginx")),
            ("localhost:5000/nginx", Some("nginx")),
            ("k8s.gcr.io/serve_hostname", Some("serve_hostname")),
            (
                "registry.k8s.io/e2e-test-images/agnhost:2.39",
                Some("agnhost"),
            ),
            ("ghcr.io/x/weft:dev", Some("weft")),
            ("weft/echo", Some("weft/echo")),
            ("ghcr.io/weft/echo:1", Some("weft/echo")),
            ("echo", None),
            ("mynginx", None),
            ("nginx/other", None),
            ("", None),
        ] {
            assert_eq!(first_name(reference), expected, "{reference}");
        }
    }

    #[test]
    fn every_name_stands_once() {
        let mut names: Vec<_> = IMAGES.iter().flat_map(|image| image.names).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn command_and_args_replace_what_kubernetes_says_they_replace() {
        let run = |reference: &str, own: &[&str], args: &[&str]| {
            command(reference, &words(own), &words(args), |_| true).map(|command| command.argv)
        };
        assert_eq!(
            run("nginx:1", &[], &[]),
            Ok(words(&["nginx", "-g", "daemon off;"]))
        );
        assert_eq!(
            run("weft:dev", &[], &["agent"]),
            Ok(words(&["weft", "agent"]))
        );
        assert_eq!(
            run("agnhost", &[], &["netexec"]).unwrap().last().unwrap(),
            "netexec"
        );
        assert_eq!(run("nginx", &["sleep"], &["1"]), Ok(words(&["sleep", "1"])));
        assert_eq!(
            run("unheard/of", &["sleep"], &["1"]),
            Ok(words(&["sleep", "1"]))
        );
    }

    #[test]
    fn what_is_missing_says_what_to_do() {
        let unknown = command("unheard/of:1", &[], &[], |_| true)
            .unwrap_err()
            .to_string();
        assert!(unknown.contains("weft lab images"), "{unknown}");
        let program = command("nginx:1", &[], &[], |_| false)
            .unwrap_err()
            .to_string();
        assert!(program.contains("Debian package nginx"), "{program}");
    }
}
