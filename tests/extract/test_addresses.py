"""What may be written as the address of a scheduler."""

import pytest

from alike.extract.addresses import address_fault


@pytest.mark.quick
@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("tcp://10.0.0.1:8786", ""),
        ("tls://scheduler.lab:1", ""),
        ("ws://h:65535", ""),
        ("tcp://[::1]:9", ""),
        ("http://10.0.0.1:8787", "its protocol must be one of tcp, tls, ws, wss"),
        ("TCP://h:1", "its protocol must be"),
        ("10.0.0.1:8786", "its protocol must be"),
        ("", "its protocol must be"),
        ("tcp://h", "it has no port"),
        ("tcp://h:", "it has no port"),
        ("tcp://h:99999", "its port must be a number from 1 to 65535"),
        ("tcp://h:0", "its port must be a number from 1 to 65535"),
        ("tcp://h:-1", "its port must be a number from 1 to 65535"),
        ("tcp://h:abc", "its port must be a number from 1 to 65535"),
        ("tcp://::1:9", "IPv6 host"),
        ("tcp://:8786", "it has no host"),
        ("tcp://", "it has no host"),
        ("tcp://a b:1", "it has a blank"),
        ("tcp://h:1 ", "it has a blank"),
        ("tcp://h:1/status", "nothing may follow the port"),
        ("tcp://me:secret@h:1", "no user and no password"),
    ],
)
def test_a_fault_of_an_address_is_named(address, says):
    fault = address_fault(address)
    assert (says in fault) if says else not fault
