"""Sends what a spool holds, and keeps it until it is answered."""

import json
import os
import sys
import threading
import time

from ..files import write_text
from .client import RefusedError, ServerFaultError, WrongServerError, read_fingerprint
from .protocol import ForeignModelError

__all__ = ["Sender"]

TRY_AGAIN_AFTER = 5.0  # seconds, while the server is away
RETRY_GRACE = 1.0  # seconds in which a server that is back may answer before the next image is coded
FOREIGN_PAUSE = 60.0  # seconds, while the server has another model, or fails


class Sender:
    """Sends what is in a spool, and what is added to it; tries again where the server was away.

    What the server answered leaves the spool, and what it refuses is put aside. All else stays: while
    the server is away or has another model, where it failed, and what cannot be read. While it is away,
    attempts run in a thread of their own: nobody who adds to the spool waits for them.

    Args:
        spool (Spool): holds what is to be sent.
        client (CloudClient): sends.
        output (str or None): folder for results, ID.json.
        tell (callable): takes each message for the user, a str.
    """

    def __init__(self, spool, client, output=None, tell=None):
        self.spool = spool
        self.client = client
        self.output = output
        self.away_since = None  # time of the last attempt, if nothing answered
        self.sent = self.refused = 0
        self._retry = None  # thread of the attempts while the server is away
        self._retry_error = None
        self._behind = False  # whether something was added while it ran
        self._foreign = {}  # fingerprint -> time of the last attempt
        self._left_since = None  # time when something was not sent though the server was there
        self._told = set()
        self._tell = tell or (lambda message: print(message, file=sys.stderr))

    def send(self, identity, patient=True):
        """Sends a bitstream of the spool.

        Args:
            identity (str): of a bitstream in the spool.
            patient (bool): see :meth:`CloudClient.send`.

        Returns:
            float or None: seconds that the cloud sub-model took; None if it was not sent.

        Raises:
            WrongServerError: what answers is no such server, and never was since the start.
            OSError: the result cannot be written; the bitstream stays in the spool.
        """
        try:
            data = self.spool.read(identity)
        except OSError as error:
            self._tell_once(f"{identity} cannot be read ({error}); left in {self.spool.folder}")
            return self._leave()
        if data is None:  # another program with this spool has sent it
            return None
        fingerprint = read_fingerprint(data)
        if time.monotonic() - self._foreign.get(fingerprint, float("-inf")) < FOREIGN_PAUSE:
            return self._leave()
        self.away_since = None
        try:
            answer = self.client.send(identity, data, self.spool.name(identity), patient)
        except RefusedError as error:
            self.spool.reject(identity, str(error))
            self.refused += 1
            self._tell(
                f"{identity}: refused ({error}); kept in {self.spool.folder}/rejected, from where "
                "--requeue takes it back"
            )
            return None
        except ForeignModelError as error:
            self._foreign[fingerprint] = time.monotonic()
            self._tell_once(
                f"the server has another model than the one that wrote {identity} ({error}); all of "
                f"model {fingerprint} are kept in {self.spool.folder} and tried again later"
            )
            return self._leave()
        except ServerFaultError as error:
            self._tell(f"{identity}: the server failed ({error}); kept in {self.spool.folder}")
            return self._leave()
        except WrongServerError as error:
            if not self.sent:
                raise
            self._tell_once(f"{error} What it does not answer is kept in {self.spool.folder}")
            self.away_since = time.monotonic()
            return None
        if answer is None:
            self.away_since = time.monotonic()
            self._tell_once(f"not sent yet ({self.client.problem}); kept in {self.spool.folder}")
            return None
        result, seconds = answer
        if self.output:
            write_text(json.dumps(result), os.path.join(self.output, f"{identity}.json"))
        self.spool.remove(identity)
        self.sent += 1
        return seconds

    def send_waiting(self, patient=True):
        """Sends what waits, the oldest first, until the server is away; `patient` as of :meth:`send`."""
        self._wait()
        self._send_waiting(patient)

    def _send_waiting(self, patient):
        self.away_since = self._left_since = None
        for name in self.spool.strangers():
            self._tell_once(
                f"{name!a} in {self.spool.folder} is no bitstream of a spool: it is not sent"
            )
        for identity in self.spool.waiting():
            self.send(identity, patient)
            if self.away_since is not None:
                return

    def send_new(self, identity):
        """As :meth:`send`; while the server is away, only now and then, and then the oldest first. What
        was left for another reason is tried again now and then, too."""
        if self._retry is not None and self._retry.is_alive():
            self._behind = True
            return None
        self._wait()
        if self.away_since is not None:
            if time.monotonic() - self.away_since > TRY_AGAIN_AFTER:
                self._try_again()
            return None
        if self._behind:
            self._behind = False
            self.send_waiting(patient=False)
            return None
        seconds = self.send(identity, patient=False)
        if self._left_since is not None and time.monotonic() - self._left_since > FOREIGN_PAUSE:
            self.send_waiting(patient=False)
        return seconds

    def finish(self):
        """Sends what was added while the server was away, as patiently as the client is."""
        self._wait()
        if self.away_since is not None or self._behind:
            self._behind = False
            self.send_waiting()

    def _try_again(self):
        def work():
            try:
                self._send_waiting(patient=False)
            except BaseException as error:  # told to who adds
                self._retry_error = error

        self._retry = threading.Thread(target=work, name="sender", daemon=True)
        self._retry.start()
        self._retry.join(RETRY_GRACE)

    def _wait(self):
        """Waits for attempts that run in their thread, and raises what they have raised."""
        if self._retry is not None:
            self._retry.join()
            self._retry = None
        error, self._retry_error = self._retry_error, None
        if error is not None:
            raise error

    def _leave(self):
        if self._left_since is None:
            self._left_since = time.monotonic()

    def _tell_once(self, message):
        if message not in self._told:
            self._told.add(message)
            self._tell(message)
