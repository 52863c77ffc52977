//! The pause image, made here from nothing: a static program of a few hundred bytes that holds a pod's namespaces open,
//! reaps what is orphaned in them and ends on TERM or INT. A node needs no registry to start its first pod.

use sha2::{Digest, Sha256};
use std::io::{self, Write};
use std::path::Path;

/// The image's name, which is also upstream's for this release.
pub const IMAGE: &str = "registry.k8s.io/pause:3.10.2";

const ELF_HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const BASE: u64 = 0x40_0000;

/// A program for this machine, or none if there is none for its architecture.
///
/// It blocks INT, TERM and CHLD (a blocked signal reaches PID 1 even without a handler), then waits for them one by one.
pub fn program() -> Option<Vec<u8>> {
    match std::env::consts::ARCH {
        "x86_64" => Some(elf(62, &X86_64)),
        "aarch64" => Some(elf(183, &aarch64())),
        _ => None,
    }
}

#[rustfmt::skip]
const X86_64: [u8; 107] = [
    0x68, 0x02, 0x40, 0x01, 0x00,             //  0        push 0x14002      INT, TERM, CHLD
    0xb8, 0x0e, 0x00, 0x00, 0x00,             //  5        mov eax, 14       rt_sigprocmask
    0x31, 0xff,                               // 10        xor edi, edi      SIG_BLOCK
    0x48, 0x89, 0xe6,                         // 12        mov rsi, rsp
    0x31, 0xd2,                               // 15        xor edx, edx
    0x41, 0xba, 0x08, 0x00, 0x00, 0x00,       // 17        mov r10d, 8
    0x0f, 0x05,                               // 23        syscall
    0xb8, 0x80, 0x00, 0x00, 0x00,             // 25 wait:  mov eax, 128      rt_sigtimedwait
    0x48, 0x89, 0xe7,                         // 30        mov rdi, rsp
    0x31, 0xf6,                               // 33        xor esi, esi
    0x31, 0xd2,                               // 35        xor edx, edx
    0x41, 0xba, 0x08, 0x00, 0x00, 0x00,       // 37        mov r10d, 8
    0x0f, 0x05,                               // 43        syscall
    0x83, 0xf8, 0x11,                         // 45        cmp eax, 17       CHLD
    0x74, 0x0c,                               // 48        je reap (62)
    0x83, 0xf8, 0x02,                         // 50        cmp eax, 2        INT
    0x74, 0x2a,                               // 53        je exit (97)
    0x83, 0xf8, 0x0f,                         // 55        cmp eax, 15       TERM
    0x74, 0x25,                               // 58        je exit (97)
    0xeb, 0xdb,                               // 60        jmp wait (25)
    0xb8, 0x3d, 0x00, 0x00, 0x00,             // 62 reap:  mov eax, 61       wait4
    0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, // 67        mov rdi, -1
    0x31, 0xf6,                               // 74        xor esi, esi
    0xba, 0x01, 0x00, 0x00, 0x00,             // 76        mov edx, 1        WNOHANG
    0x45, 0x31, 0xd2,                         // 81        xor r10d, r10d
    0x0f, 0x05,                               // 84        syscall
    0x85, 0xc0,                               // 86        test eax, eax
    0x7f, 0xe4,                               // 88        jg reap (62)
    0xeb, 0xbd,                               // 90        jmp wait (25)
    0x90, 0x90, 0x90, 0x90, 0x90,             // 92        nop
    0x31, 0xff,                               // 97 exit:  xor edi, edi
    0xb8, 0x3c, 0x00, 0x00, 0x00, 0x0f, 0x05, // 99        mov eax, 60; syscall
    0x90,
];

fn aarch64() -> Vec<u8> {
    let movz = |register: u32, value: u32| 0xd280_0000 | (value << 5) | register;
    let compare_w0 = |value: u32| 0x7100_001f | (value << 10);
    let branch_if = |condition: u32, words: i32| 0x5400_0000 | (((words as u32) & 0x7_ffff) << 5) | condition;
    let branch = |words: i32| 0x1400_0000 | ((words as u32) & 0x03ff_ffff);
    let (equal, greater) = (0, 12);
    let words: Vec<u32> = vec![
        0xd100_43ff,            //  0        sub sp, sp, #16
        movz(0, 0x4002),        //  1        INT, TERM
        0xf2a0_0020,            //  2        movk x0, #1, lsl #16: CHLD
        0xf900_03e0,            //  3        str x0, [sp]
        movz(8, 135),           //  4        rt_sigprocmask
        movz(0, 0),             //  5
        0x9100_03e1,            //  6        mov x1, sp
        movz(2, 0),             //  7
        movz(3, 8),             //  8
        0xd400_0001,            //  9        svc #0
        movz(8, 137),           // 10 wait:  rt_sigtimedwait
        0x9100_03e0,            // 11        mov x0, sp
        movz(1, 0),             // 12
        movz(2, 0),             // 13
        movz(3, 8),             // 14
        0xd400_0001,            // 15        svc #0
        compare_w0(17),         // 16
        branch_if(equal, 6),    // 17        -> reap (23)
        compare_w0(2),          // 18
        branch_if(equal, 13),   // 19        -> exit (32)
        compare_w0(15),         // 20
        branch_if(equal, 11),   // 21        -> exit (32)
        branch(-12),            // 22        -> wait (10)
        movz(8, 260),           // 23 reap:  wait4
        0x9280_0000,            // 24        mov x0, #-1
        movz(1, 0),             // 25
        movz(2, 1),             // 26        WNOHANG
        movz(3, 0),             // 27
        0xd400_0001,            // 28        svc #0
        compare_w0(0),          // 29
        branch_if(greater, -7), // 30      -> reap (23)
        branch(-21),            // 31        -> wait (10)
        movz(8, 93),            // 32 exit:  exit
        movz(0, 0),             // 33
        0xd400_0001,            // 34        svc #0
    ];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A static executable with one read-only segment.
fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    let offset = ELF_HEADER + PROGRAM_HEADER;
    let size = offset + code.len() as u64;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend(2u16.to_le_bytes());
    file.extend(machine.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend((BASE + offset).to_le_bytes());
    file.extend(ELF_HEADER.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    file.extend(5u32.to_le_bytes());
    for word in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend_from_slice(code);
    file
}

fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_cksum();
    tar.append_data(&mut header, path, bytes)
}

/// Writes the image as an OCI archive.
pub fn write_archive(path: &Path) -> io::Result<()> {
    let program = program().ok_or_else(|| {
        io::Error::new(io::ErrorKind::Unsupported, format!("no pause program for {}", std::env::consts::ARCH))
    })?;
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, "pause", 0o555, &program)?;
    let layer = layer.into_inner()?;
    let architecture = if std::env::consts::ARCH == "x86_64" { "amd64" } else { "arm64" };
    let config = serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"User": "65535:65535", "Entrypoint": ["/pause"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex_digest(&layer))]},
    })
    .to_string();
    let descriptor = |media: &str, bytes: &[u8]| {
        serde_json::json!({
            "mediaType": format!("application/vnd.oci.image.{media}"),
            "digest": format!("sha256:{}", hex_digest(bytes)),
            "size": bytes.len(),
        })
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config.as_bytes()),
        "layers": [descriptor("layer.v1.tar", &layer)],
    })
    .to_string();
    let mut entry = descriptor("manifest.v1+json", manifest.as_bytes());
    entry["annotations"] = serde_json::json!({"io.containerd.image.name": IMAGE});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string();

    let mut tar = tar::Builder::new(io::BufWriter::new(std::fs::File::create(path)?));
    append(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut tar, "index.json", 0o644, index.as_bytes())?;
    for blob in [layer.as_slice(), config.as_bytes(), manifest.as_bytes()] {
        append(&mut tar, &format!("blobs/sha256/{}", hex_digest(blob)), 0o644, blob)?;
    }
    tar.into_inner()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn the_program_waits_reaps_and_ends_on_term() {
        let Some(program) = program() else { return };
        let path = std::env::temp_dir().join(format!("skeg-pause-{}", std::process::id()));
        std::fs::write(&path, program).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = std::process::Command::new(&path).spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        // CHLD must not end it; TERM must, and by its own exit.
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCHLD).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(child.try_wait().unwrap().is_none(), "it must still run");
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = child.wait().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((status.code(), status.signal()), (Some(0), None));
    }
}
