// A lender for documentation examples: in this process, on loopback, with one user who has joined. Included by doctests.
async fn lab() -> Result<(capuchin::Profiles, std::net::SocketAddr, tempfile::TempDir), Box<dyn std::error::Error>> {
    use capuchin::lend::{AdminReply, AdminRequest, Lender, LenderDir, Setup, init};
    use std::io::{Read, Write};

    let folder = tempfile::tempdir()?;
    let web = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = web.local_addr()?;
    std::thread::spawn(move || {
        for mut socket in web.incoming().flatten() {
            let _ = socket.read(&mut [0; 1024]);
            let _ = socket.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello");
        }
    });
    let dir = LenderDir::single(folder.path().join("lab"));
    init(&dir, Setup { name: Some("lab".parse()?), listen: Some("127.0.0.1:0".parse()?), ..Setup::default() })?;
    let lent = folder.path().canonicalize()?.join("lent");
    std::fs::create_dir(&lent)?;
    let rules = format!("connect = \"{address}\"\nlisten = \"127.0.0.1:1024-65535\"\nudp = \"127.0.0.1:1024-65535\"\nunix = {lent:?}\nunix_listen = {lent:?}\nexec = [{{ path = \"*\" }}]\nservices = {{ offer = [\"*\"], use = [\"*\"] }}");
    std::fs::write(dir.policy_toml(), format!("[[allow]]\nwho = \"ana\"\n{rules}\nallow_root = true\n"))?;
    let lender = Lender::open(&dir)?;
    let listeners = lender.listen().await?;
    lender.execute(AdminRequest::UserAdd { user: "ana".into() }).await?;
    let invited = lender.execute(AdminRequest::Invite { user: "ana".into(), ttl_seconds: 60 }).await?;
    let AdminReply::Invitation { line } = invited else { return Err("no invitation".into()) };
    tokio::spawn(async move { lender.serve(listeners, std::future::pending()).await });
    let profiles = capuchin::Profiles::at(&folder.path().join("config"), &folder.path().join("state"));
    let password = capuchin::trust::password::Password::new(b"correct horse".to_vec())?;
    capuchin::Join::begin(&profiles, &line, None).await?.finish(&password).await?;
    Ok((profiles, address, folder))
}
