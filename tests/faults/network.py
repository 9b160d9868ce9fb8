"""Hosts of our own on one machine: network namespaces, and a switch between them that delays, loses and cuts.

The switch is a thread here and not the kernel's netem, which not every kernel has.
"""

import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import socket
import struct
import subprocess
import threading
import time

SIOCETHTOOL, ETHTOOL_SRXCSUM, ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO = 0x8946, 0x15, 0x17, 0x1F, 0x24


def ip(*arguments, namespace=None):
    inside = ["-n", namespace] if namespace else []
    subprocess.run(["ip", *inside, *map(str, arguments)], check=True, capture_output=True, text=True)


def finish_packets(interface):
    """A virtual cable leaves checksums and large segments to the other end: behind a switch they must be done here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in (ETHTOOL_STXCSUM, ETHTOOL_SRXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO):
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = struct.pack("16sP", interface.encode(), ctypes.addressof(value))
            fcntl.ioctl(control, SIOCETHTOOL, request)


_networks = itertools.count()


class Network:
    """`count` hosts, 10.77.0.1 and up, called host1 and up."""

    def __init__(self, count, delay=0.0, loss=0.0, seed=0):
        self.delay, self.loss, self.random = delay, loss, random.Random(seed)
        self.down, self.over, self.sent, self.lost = set(), False, 0, 0
        self.hosts = [f"host{i + 1}" for i in range(count)]
        self.sockets = []
        # the kernel takes its time to remove the cables of the last one
        unique = f"{os.getpid() % 10000}x{next(_networks)}"
        self.cables = [(f"tn{unique}a{i}", f"tn{unique}b{i}") for i in range(count)]

    def __enter__(self):
        try:
            for i, (host, (near, far)) in enumerate(zip(self.hosts, self.cables)):
                subprocess.run(["ip", "netns", "del", host], capture_output=True)  # what a killed test has left
                ip("netns", "add", host)
                ip("link", "add", near, "type", "veth", "peer", "name", far)
                finish_packets(far)
                finish_packets(near)
                ip("link", "set", far, "netns", host, "name", "eth0")
                ip("addr", "add", f"10.77.0.{i + 1}/24", "dev", "eth0", namespace=host)
                ip("link", "set", "eth0", "up", namespace=host)
                ip("link", "set", "lo", "up", namespace=host)
                ip("link", "set", near, "up", "promisc", "on")
                port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
                port.bind((near, 0))
                self.sockets.append(port)
        except BaseException:
            self.__exit__()
            raise
        self.thread = threading.Thread(target=self.switch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over = True
        if hasattr(self, "thread"):
            self.thread.join()
        for port in self.sockets:
            port.close()
        for host in self.hosts:
            subprocess.run(["ip", "netns", "del", host], capture_output=True)

    def switch(self):
        waiting = []  # (when, order, port, frame)
        while not self.over:
            timeout = max(0.0, min(0.05, waiting[0][0] - time.monotonic())) if waiting else 0.05
            for port in select.select(self.sockets, [], [], timeout)[0]:
                frame, (_, _, kind, *_) = port.recvfrom(65536)
                if kind == socket.PACKET_OUTGOING:
                    continue
                source = self.sockets.index(port)
                for target in range(len(self.sockets)):
                    if target == source or source in self.down or target in self.down:
                        continue
                    self.sent += 1
                    if self.random.random() < self.loss:
                        self.lost += 1
                        continue
                    heapq.heappush(waiting, (time.monotonic() + self.delay, self.sent, target, frame))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, target, frame = heapq.heappop(waiting)
                try:
                    self.sockets[target].send(frame)
                except OSError:
                    pass  # as a cable would

    def command(self, i, *arguments):
        """Runs it on host i, under its name."""
        named = 'hostname "$0" && exec "$@"'
        return ["ip", "netns", "exec", self.hosts[i], "unshare", "--uts", "sh", "-c", named, self.hosts[i], *map(str, arguments)]
