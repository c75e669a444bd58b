"""Finishing steps: pure functions that do to our tree what maintainer scripts would have done to an installed one.

Each step is ``noun(tree, options...) -> Patch``: it reads the tree and returns only what to put and remove;
:mod:`builder.pipeline.assemble` applies the patches in order and caches them. Steps that need a program of the tools
closure also take a :class:`~builder.core.toolbox.Toolbox` and an empty scratch directory.

==============  ======================================================================================================================
step            scripts whose work it does
==============  ======================================================================================================================
accounts        base-passwd, passwd (shadow), all sysusers (systemd, udev, dbus, etcd-server, openssh-server, resolved, timesyncd), and
                the addgroup calls of docker.io and openssh-client
defaults        base-files, debianutils, openssh-server (sshd_config), libpam-modules, libwrap0, kmod, systemd (journal directory)
identity        systemd (machine-id, locale), base-files (os-release, issue), netbase, tzdata, systemd-resolved (resolv.conf), libc-bin and
                libnss-* (nsswitch.conf)
certificates    ca-certificates
pam             libpam-runtime, libpam-systemd (pam-auth-update)
alternatives    mawk, less, util-linux, iptables, debianutils, xz-utils, bash (update-alternatives)
presets         every package with units (deb-systemd-helper, update-rc.d), systemd's own enable calls
databases       udev (hwdb), systemd (catalog), ConditionNeedsUpdate= at boot
modules         linux-image-*, kmod (depmod), initramfs-tools (choice of modules)
slim            none: it drops what packages bring and a node does not read
bytecode        libpython3.13-*, python3.13*, python3-* (py_compile, py3compile)
statoverride    dbus, openssh-client, sudo, passwd (dpkg-statoverride, chmod, chown)
dpkg_status     dpkg's own database
ldconfig        libc-bin's trigger, activated by every library
writable        base-files (directories and links of /var)
==============  ======================================================================================================================

Rules for the order: ``statoverride`` after ``accounts`` (it looks numbers up) and after the overlay; ``databases``
after ``presets``, which removes the links of /etc/systemd/system that it does not know; ``ldconfig`` and ``bytecode``
after ``slim``; ``writable`` last of all that touch /var, /home, /root, /opt and /srv.

Not done on purpose: systemd-tmpfiles (it runs at boot on /var and /run), ssh host keys (made on the node), debconf (the
final configuration is written), update-initramfs and boot loader hooks (the initrd is our own), diversions of the merge
of /usr (paths are mapped while unpacking), apparmor profiles (the kernel's default confines nothing without them),
iproute2's optional capability (its default is none), the empty directories of /usr/local (read-only), the dpkg, ucf and
debconf databases (nothing on a node reads them).
"""
