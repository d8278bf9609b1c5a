# services.nwfilter: the daemon in the place of libvirt's virtnwfilterd, without ebtables on the host.
{ config, lib, pkgs, ... }:

let
  cfg = config.services.nwfilter;
  toml = pkgs.formats.toml { };
  file = toml.generate "nwfilterd.toml" ({ standard_filters = cfg.standardFilters; } // cfg.settings);
  filterDir = cfg.settings.filter_dir or "/etc/libvirt/nwfilter";
  # The daemon takes no other addresses than those of the loopback.
  overLoopback = cfg.settings ? metrics && builtins.match "unix:.*" cfg.settings.metrics == null;
  # The monolithic daemon of virtualisation.libvirtd has a driver of its own.
  monolithic = config.virtualisation.libvirtd.enable or false;
  socket = listen: mode: rival: {
    conflicts = [ rival ];
    wantedBy = [ "sockets.target" ];
    socketConfig = {
      ListenStream = listen;
      SocketMode = mode;
      RemoveOnStop = true;
      Service = "nwfilterd.service";
    };
  };
in
{
  options.services.nwfilter = {
    enable = lib.mkEnableOption "network filters of virtual machines, enforced with nftables over netlink";

    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.nwfilter;
      defaultText = lib.literalExpression "pkgs.nwfilter";
      description = "The package to use.";
    };

    settings = lib.mkOption {
      type = toml.type;
      default = { };
      example = { counters = true; fold_up_to = 64; };
      description = "Keys of nwfilterd.conf. An unknown key keeps the daemon from starting.";
    };

    standardFilters = lib.mkOption {
      type = lib.types.bool;
      default = true;
      description = "Have the standard filters that have no file in the directory of filters, except those that were deleted.";
    };

    hardening = lib.mkOption {
      type = lib.types.bool;
      default = true;
      description = "Run the daemon in systemd's sandbox. It confines itself in any case, unless settings.confine is false.";
    };

    sockets = {
      group = lib.mkOption {
        type = lib.types.nullOr lib.types.str;
        default = null;
        example = "libvirtd";
        description = "Members of this group may change filters and bindings. Without it root alone may.";
      };
      readers = lib.mkOption {
        type = lib.types.bool;
        default = true;
        description = "Whether everybody may read filters and bindings.";
      };
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [{
      assertion = !(config.systemd.sockets ? virtnwfilterd);
      message = "services.nwfilter answers on the sockets of virtnwfilterd: only one of them can.";
    }];

    warnings = lib.optional monolithic ''
      virtualisation.libvirtd runs libvirt's monolithic daemon, which filters its guests by itself and does not use
      services.nwfilter: that serves clients of nwfilter:///system and the command nwfilter alone.'';

    environment.systemPackages = [ cfg.package ];
    environment.etc."nwfilter/nwfilterd.conf".source = file;

    systemd.sockets = {
      nwfilterd = lib.recursiveUpdate
        (socket "/run/libvirt/virtnwfilterd-sock" (if cfg.sockets.group == null then "0600" else "0660")
          "virtnwfilterd.socket")
        {
          description = "Network filters of virtual machines: socket of libvirt's protocol";
          socketConfig = { FileDescriptorName = "nwfilterd"; }
            // lib.optionalAttrs (cfg.sockets.group != null) { SocketGroup = cfg.sockets.group; };
        };
    } // lib.optionalAttrs cfg.sockets.readers {
      nwfilterd-ro = lib.recursiveUpdate (socket "/run/libvirt/virtnwfilterd-sock-ro" "0666" "virtnwfilterd-ro.socket") {
        description = "Network filters of virtual machines: socket for readers";
        bindsTo = [ "nwfilterd.socket" ];
        after = [ "nwfilterd.socket" ];
        socketConfig.FileDescriptorName = "nwfilterd-ro";
      };
    };

    systemd.services.nwfilterd = {
      description = "Network filters of virtual machines";
      documentation = [ "man:nwfilterd(8)" ];
      wantedBy = [ "multi-user.target" ];
      bindsTo = [ "nwfilterd.socket" ];
      conflicts = [ "virtnwfilterd.service" ];
      # nftables flushes the whole rule set when it starts.
      after = [ "nwfilterd.socket" "nftables.service" "firewall.service" ];
      before = [ "virtqemud.service" "libvirt-guests.service" ];
      # The rules are the kernel's, and a switch of the system must not wait for the guests of a host.
      restartIfChanged = false;
      reloadTriggers = [ file ];
      serviceConfig = {
        Type = "notify-reload";
        ExecStart = "${cfg.package}/sbin/nwfilterd --config /etc/nwfilter/nwfilterd.conf";
        Restart = "on-failure";
        WatchdogSec = 30;
        LimitNOFILE = 65536;
        ConfigurationDirectory = "libvirt/nwfilter";
        ConfigurationDirectoryMode = "0700";
        StateDirectory = "nwfilter";
        StateDirectoryMode = "0700";
        RuntimeDirectory = "libvirt";
        RuntimeDirectoryPreserve = true;
        UMask = "0077";
      } // lib.optionalAttrs cfg.hardening {
        CapabilityBoundingSet = [ "CAP_NET_ADMIN" "CAP_NET_RAW" "CAP_BPF" "CAP_PERFMON" "CAP_SETPCAP" ];
        IPAddressAllow = if overLoopback then "localhost" else "";
        IPAddressDeny = "any";
        KeyringMode = "private";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateTmp = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectProc = "invisible";
        ProtectSystem = "strict";
        # ProtectKernelTunables would make /sys/fs/bpf read-only whatever ReadWritePaths says, and the checksum guard is pinned there.
        ReadOnlyPaths = [ "/sys" ] ++ map (name: "-/proc/${name}") [
          "acpi" "apm" "asound" "bus" "fs" "irq" "latency_stats" "mtrr" "scsi" "sys" "sysrq-trigger" "timer_stats"
        ];
        InaccessiblePaths = [ "-/proc/kallsyms" "-/proc/kcore" ];
        ReadWritePaths = [ filterDir "-/sys/fs/bpf" ];
        RestrictAddressFamilies = [ "AF_UNIX" "AF_NETLINK" "AF_PACKET" ]
          ++ (if overLoopback then [ "AF_INET" "AF_INET6" ] else [ ]);
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
      };
    };
  };
}
