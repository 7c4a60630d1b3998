//! The dashboard as a real process, and a browser as far as tests need one: cookies, links, forms.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::{ADMIN_TOKEN, Cluster, Place, Process, free_port, program};

/// No page takes longer.
const PAGE_WITHIN: Duration = Duration::from_secs(30);
/// Until it answers at all.
const START_WITHIN: Duration = Duration::from_secs(20);

/// A running dashboard.
pub struct Dashboard {
    /// Where its pages are.
    pub address: SocketAddr,
    process: Process,
}

impl Dashboard {
    /// Starts one for a cluster, with further settings, and waits until it answers.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub async fn start(cluster: &Cluster, settings: &[&str]) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let namesrvs: Vec<String> = cluster.namesrvs.iter().map(|namesrv| namesrv.address.to_string()).collect();
        let (namesrvs, port) = (namesrvs.join(";"), address.port().to_string());
        let mut arguments = vec!["-n", &namesrvs, "-p", &port];
        for setting in settings {
            arguments.extend(["-D", setting]);
        }
        let environment = vec![("RAFTMQ_ADMIN_TOKEN".to_owned(), ADMIN_TOKEN.to_owned())];
        let place = Place { namespace: None, environment };
        let log = cluster.dir().join(format!("dashboard-{port}.log"));
        let mut dashboard =
            Self { address, process: Process::start(&program("raftmq-dashboard")?, &arguments, &log, &place)? };
        let ready = async {
            loop {
                ensure!(dashboard.process.runs(), "the dashboard ended: {}", dashboard.process.output());
                if Browser::new(address).get("/healthz").await.is_ok() {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(START_WITHIN, ready).await.context("the dashboard does not answer")??;
        Ok(dashboard)
    }

    /// A browser without cookies.
    pub fn browser(&self) -> Browser {
        Browser::new(self.address)
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        self.process.output()
    }
}

/// An answer over HTTP.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Of HTTP.
    pub status: u16,
    /// Lines of the head, names in small letters.
    pub headers: Vec<(String, String)>,
    /// The page.
    pub text: String,
}

impl Answer {
    /// The first header of a name.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The page's text without tags, words separated by single spaces.
    pub fn words(&self) -> String {
        let mut text = String::new();
        let mut inside = false;
        for sign in self.text.chars() {
            match sign {
                '<' => (inside, _) = (true, text.push(' ')),
                '>' => inside = false,
                sign if !inside => text.push(sign),
                _ => {}
            }
        }
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The value of the first attribute that follows `before`.
    pub fn after<'a>(&'a self, before: &str) -> Option<&'a str> {
        let (_, rest) = self.text.split_once(before)?;
        rest.split('"').next()
    }
}

/// What keeps the cookies.
pub struct Browser {
    address: SocketAddr,
    /// By name.
    pub cookies: BTreeMap<String, String>,
    /// What the browser says the host is.
    pub host: String,
}

impl Browser {
    /// One without cookies, for the pages of a process.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, cookies: BTreeMap::new(), host: address.to_string() }
    }

    /// A page; redirects are not followed.
    ///
    /// # Errors
    ///
    /// The dashboard does not answer.
    pub async fn get(&mut self, path: &str) -> Result<Answer> {
        self.call("GET", path, "").await
    }

    /// A page that must be there.
    ///
    /// # Errors
    ///
    /// It is not.
    pub async fn page(&mut self, path: &str) -> Result<Answer> {
        let answer = self.get(path).await?;
        ensure!(answer.status == 200, "{path}: {} {} {}", answer.status, answer.header("location"), answer.words());
        Ok(answer)
    }

    /// Sends a form as the page at `from` would, and shows the page that follows.
    ///
    /// # Errors
    ///
    /// The page has no form, or the form is not answered with another page.
    pub async fn submit(&mut self, from: &str, action: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        let page = self.page(from).await?;
        let token = page.after("name=\"token\" value=\"").with_context(|| format!("{from} has no form"))?.to_owned();
        let mut all = vec![("token", token.as_str()), ("back", from)];
        all.extend(fields);
        let answer = self.post(action, &all).await?;
        if answer.status != 303 {
            bail!("{action}: {} {}", answer.status, answer.words());
        }
        let to = answer.header("location").to_owned();
        self.page(&to).await
    }

    /// Sends these fields and no others.
    ///
    /// # Errors
    ///
    /// The dashboard does not answer.
    pub async fn post(&mut self, action: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        let body: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}={}", quoted(name), quoted(value))).collect();
        self.call("POST", action, &body.join("&")).await
    }

    async fn call(&mut self, method: &str, path: &str, body: &str) -> Result<Answer> {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nCookie: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            self.host,
            cookies.join("; "),
            body.len()
        );
        let mut bytes = Vec::new();
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_end(&mut bytes).await
        };
        timeout(PAGE_WITHIN, exchange).await.with_context(|| format!("{path} takes too long"))??;
        let answer = parse(&bytes).with_context(|| format!("{method} {path}"))?;
        for (_, cookie) in answer.headers.iter().filter(|(name, _)| name == "set-cookie") {
            if let Some((name, value)) = cookie.split(';').next().and_then(|pair| pair.split_once('=')) {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(answer)
    }
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").context("an answer has a head")?;
    let head = String::from_utf8(bytes[..end].to_vec())?;
    let status = head.split(' ').nth(1).context("a head has a status")?.parse()?;
    let headers: Vec<(String, String)> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut body = &bytes[end + 4..];
    let mut whole = Vec::new();
    if headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked") {
        while let Some(at) = body.windows(2).position(|two| two == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&body[..at])?.trim(), 16)?;
            if size == 0 {
                break;
            }
            whole.extend_from_slice(body.get(at + 2..at + 2 + size).context("a part is whole")?);
            body = &body[at + 4 + size..];
        }
    } else {
        whole = body.to_vec();
    }
    Ok(Answer { status, headers, text: String::from_utf8(whole)? })
}

/// As forms write it.
pub fn quoted(text: &str) -> String {
    text.bytes().fold(String::new(), |mut quoted, byte| {
        match byte {
            byte if byte.is_ascii_alphanumeric() => quoted.push(char::from(byte)),
            byte => quoted.push_str(&format!("%{byte:02X}")),
        }
        quoted
    })
}
