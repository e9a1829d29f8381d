"""A stand-in for the Hub on this machine, for the real client: repositories, commits, files, and faults.

It answers what ``huggingface_hub`` asks for to look at a repository, to download files of a revision, to
create a repository, and to upload files in one commit (large ones through LFS). What differs from the real
one: any token but :attr:`Hub.token` is refused, no repository is private, and there is one branch, ``main``.

Weights are LFS files, as on the Hub: a request for one is redirected to another host (``localhost`` in place
of ``127.0.0.1``), and only the redirect tells the commit, the sha256 and the size.
"""

import base64
import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

MAIN = 'main'
MESSAGES = {
    401: ('', 'Invalid credentials in Authorization header'),
    404: ('RepoNotFound', 'Repository not found'),
}
"""Code and message of the errors by which the client tells more than by their status."""
REPO = r'(?P<repo>[\w.-]+/[\w.-]+)'


@dataclass
class Commit:
    """A state of a repository: all its files."""

    sha: str
    message: str
    files: dict[str, bytes]


@dataclass
class Fault:
    """What goes wrong with the requests that match: an HTTP status, or 0 for a connection that is cut."""

    method: str
    path: str
    status: int
    times: int


@dataclass
class Answer:
    """What a request gets."""

    status: int = 200
    body: bytes = b''
    headers: dict[str, str] = field(default_factory=dict)


class Hub:
    """The server, on a free port, in threads of this process; use it as a context manager.

    Attributes:
        url: Where it is: the value for ``HF_ENDPOINT``.
        token: The only one that may write.
        repos: The commits of each repository, by ``org/name``; every repository begins with one.
        requests: What was asked for, as ``'GET /path'``, for tests that count.
    """

    token = 'hf_loopback'

    def __init__(self) -> None:
        self.repos: dict[str, list[Commit]] = {}
        self.requests: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), self._handler())
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f'http://127.0.0.1:{self.port}'

    def __enter__(self) -> 'Hub':
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def put(self, repo: str, files: dict[str, bytes], message: str = 'By the test') -> str:
        """Adds files to a repository, which is made if there is none.

        Returns:
            The commit: 40 hexadecimal digits.
        """
        with self.lock:
            commits = self.repos.setdefault(repo, [])
            merged = {**(commits[-1].files if commits else {}), **files}
            state = [repo, len(commits), message]
            state += [[path, hashlib.sha256(data).hexdigest()] for path, data in sorted(merged.items())]
            commits.append(Commit(hashlib.sha1(json.dumps(state).encode()).hexdigest(), message, merged))
            return commits[-1].sha

    def serve(self, name: str, data: bytes) -> str:
        """Makes a plain file, as of any web server; returns its URL."""
        self.files[name] = data
        return f'{self.url}/files/{name}'

    def fail(self, path: str = '', status: int = 0, method: str = '', times: int = 10**9) -> None:
        """Lets requests fail from now on, until :meth:`heal`.

        Args:
            path: A regular expression, searched in the path.
            status: The HTTP status to answer; 0: half of the body is sent (of a request with a body: read),
                and the connection is closed.
            method: Such as 'GET'; any if empty.
            times: How many requests fail; later ones succeed.
        """
        self.faults.append(Fault(method, path, status, times))

    def heal(self) -> None:
        """Nothing fails any more."""
        self.faults.clear()

    def environment(self, home: Path, token: bool = True) -> dict[str, str]:
        """The environment of a new process that uses this server: with an empty cache, if ``home`` is empty.

        Args:
            home: Folder for all caches.
            token: Log in.
        """
        found = {key: value for key, value in os.environ.items() if not key.startswith(('HF_', 'HUGGING'))}
        return found | self.variables(home, token)

    def variables(self, home: Path, token: bool = True) -> dict[str, str]:
        """What :meth:`environment` sets."""
        return {
            'HF_ENDPOINT': self.url,
            'HF_HOME': str(home),
            'HF_HUB_CACHE': str(home / 'hub'),
            'HF_HUB_DISABLE_XET': '1',
            'HF_HUB_DISABLE_TELEMETRY': '1',
            'HF_HUB_OFFLINE': '0',
            'HF_TOKEN': self.token if token else '',
            'NO_PROXY': '127.0.0.1,localhost',
            'TORCH_HOME': str(home / 'torch'),
        }

    # ---- what the client asks for

    def routes(self) -> list[tuple[str, str, Callable[..., Answer]]]:
        return [
            ('GET', rf'/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)', self._resolve),
            ('GET', rf'/api/models/{REPO}(/revision/(?P<revision>[^/]+))?', self._info),
            ('GET', r'/(cdn|files)/(?P<name>.+)', self._plain),
            ('GET', r'/api/whoami-v2', lambda **_: reply({'type': 'user', 'name': 'tester', 'orgs': []})),
            ('POST', r'/api/repos/create', self._create),
            ('POST', r'/api/validate-yaml', self._validate),
            ('POST', rf'/api/models/{REPO}/preupload/main', self._preupload),
            ('POST', rf'/{REPO}\.git/info/lfs/objects/batch', self._batch),
            ('PUT', r'/lfs/(?P<oid>[0-9a-f]{64})', self._store),
            ('POST', r'/lfs/verify', self._verify),
            ('POST', rf'/api/models/{REPO}/commit/main', self._commit),
        ]

    def answer(self, method: str, path: str, body: bytes, authorization: str) -> Answer:
        """One request; LFS storage takes signed addresses on the real Hub, so it asks for no token."""
        writes = method == 'POST' and path != '/lfs/verify'
        if writes and authorization != f'Bearer {self.token}':
            return refuse(401, message='Invalid username or password.')
        for verb, pattern, function in self.routes():
            if verb == ('GET' if method == 'HEAD' else method) and (match := re.fullmatch(pattern, path)):
                with self.lock:
                    return function(body=body, **match.groupdict())
        return refuse(404)

    def _find(self, repo: str, revision: str | None) -> Commit | Answer:
        if repo not in self.repos:
            return refuse(404, 'RepoNotFound', 'Repository not found')
        commits = self.repos[repo]
        if revision in (None, MAIN):
            return commits[-1]
        found = [commit for commit in commits if commit.sha == revision]
        return found[0] if found else refuse(404, 'RevisionNotFound', f'Invalid rev id: {revision}')

    def _resolve(self, repo: str, revision: str, path: str, body: bytes) -> Answer:
        commit = self._find(repo, unquote(revision))
        if isinstance(commit, Answer):
            return commit
        headers = {'X-Repo-Commit': commit.sha}
        data = commit.files.get(unquote(path))
        if data is None:
            answer = refuse(404, 'EntryNotFound', 'Entry not found')
            return Answer(answer.status, answer.body, answer.headers | headers)
        if not is_large(path):
            return Answer(body=data, headers=headers | {'ETag': f'"{git_sha(data)}"'})
        oid = hashlib.sha256(data).hexdigest()
        self.objects[oid] = data
        headers |= {'X-Linked-Etag': f'"{oid}"', 'X-Linked-Size': str(len(data))}
        return Answer(302, headers=headers | {'Location': f'http://localhost:{self.port}/cdn/{oid}'})

    def _plain(self, name: str, body: bytes) -> Answer:
        data = self.objects.get(name, self.files.get(name))
        if data is None:
            return refuse(404)
        return Answer(body=data, headers={'ETag': f'"{hashlib.sha256(data).hexdigest()}"'})

    def _info(self, repo: str, revision: str | None, body: bytes) -> Answer:
        commit = self._find(repo, revision)
        if isinstance(commit, Answer):
            return commit
        siblings = [{'rfilename': path} for path in sorted(commit.files)]
        return reply({'id': repo, 'modelId': repo, 'sha': commit.sha, 'private': False, 'siblings': siblings})

    def _create(self, body: bytes) -> Answer:
        given = json.loads(body)
        repo = f'{given["organization"]}/{given["name"]}'
        made = {'url': f'{self.url}/{repo}', 'name': repo}
        if repo in self.repos:
            return reply({**made, 'error': 'You already created this model repo'}, 409)
        attributes = b'*.safetensors filter=lfs diff=lfs merge=lfs -text\n'
        self.put(repo, {'.gitattributes': attributes}, 'initial commit')
        return reply(made)

    def _validate(self, body: bytes) -> Answer:
        content = json.loads(body)['content']
        match = re.match(r'---\n(.*?)\n---\n', content, re.DOTALL)
        if match is None:
            return reply({'errors': [], 'warnings': [{'message': 'empty or missing yaml metadata'}]})
        try:
            data = yaml.safe_load(match[1])
        except yaml.YAMLError as error:
            return reply({'errors': [{'message': str(error)}], 'warnings': []}, 400)
        if not isinstance(data, dict) or not isinstance(data.get('license', ''), str):
            return reply({'errors': [{'message': '"license" must be a string'}], 'warnings': []}, 400)
        return reply({'errors': [], 'warnings': []})

    def _preupload(self, repo: str, body: bytes) -> Answer:
        commit = self._find(repo, None)
        if isinstance(commit, Answer):
            return commit
        files = []
        for given in json.loads(body)['files']:
            path, large = given['path'], is_large(given['path'])
            described = {'path': path, 'uploadMode': 'lfs' if large else 'regular', 'shouldIgnore': False}
            if (data := commit.files.get(path)) is not None:
                described['oid'] = hashlib.sha256(data).hexdigest() if large else git_sha(data)
            files.append(described)
        return reply({'files': files})

    def _batch(self, repo: str, body: bytes) -> Answer:
        objects = []
        for given in json.loads(body)['objects']:
            upload = {'href': f'{self.url}/lfs/{given["oid"]}'}
            actions = {'upload': upload, 'verify': {'href': f'{self.url}/lfs/verify'}}
            known = given['oid'] in self.objects
            objects.append({**given} if known else {**given, 'actions': actions})
        return reply({'transfer': 'basic', 'objects': objects})

    def _store(self, oid: str, body: bytes) -> Answer:
        if hashlib.sha256(body).hexdigest() != oid:
            return refuse(400, message='The content is not that of the sha256')
        self.objects[oid] = body
        return Answer()

    def _verify(self, body: bytes) -> Answer:
        given = json.loads(body)
        return reply({}) if len(self.objects.get(given['oid'], b'')) == given['size'] else refuse(404)

    def _commit(self, repo: str, body: bytes) -> Answer:
        last = self._find(repo, None)
        if isinstance(last, Answer):
            return last
        files, summary = {}, ''
        for line in map(json.loads, body.splitlines()):
            value = line['value']
            if line['key'] == 'header':
                summary = value['summary']
                if value.get('parentCommit', last.sha) != last.sha:
                    return refuse(412, message='A commit has happened since. Please refresh and try again.')
            elif line['key'] == 'file':
                files[value['path']] = base64.b64decode(value['content'])
            elif line['key'] == 'lfsFile' and value['oid'] in self.objects:
                files[value['path']] = self.objects[value['oid']]
            else:
                return refuse(400, message=f'Cannot commit {line}')
        sha = self.put(repo, files, summary)
        return reply({'success': True, 'commitUrl': f'{self.url}/{repo}/commit/{sha}', 'commitOid': sha})

    # ---- HTTP

    def find_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method in ('', method) and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def handle_request(self) -> None:
                path = urlsplit(self.path).path
                hub.requests.append(f'{self.command} {path}')
                fault = hub.find_fault(self.command, path)
                length = int(self.headers.get('Content-Length', 0))
                if fault and not fault.status and length:
                    self.rfile.read(length // 2)
                    return self.hang_up()
                body = self.rfile.read(length) if length else self.read_chunks()
                if fault and fault.status:
                    answer = refuse(fault.status, *MESSAGES.get(fault.status, ()))
                else:
                    answer = hub.answer(self.command, path, body, self.headers.get('Authorization', ''))
                self.send(answer, cut=bool(fault and not fault.status))

            do_GET = do_HEAD = do_POST = do_PUT = handle_request

            def read_chunks(self) -> bytes:
                """A body of unknown length."""
                parts: list[bytes] = []
                if self.headers.get('Transfer-Encoding') == 'chunked':
                    while size := int(self.rfile.readline(), 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                return b''.join(parts)

            def send(self, answer: Answer, cut: bool) -> None:
                status, body, headers = answer.status, answer.body, dict(answer.headers)
                wanted = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', ''))
                if wanted and status == 200 and int(wanted[1]) < len(body):
                    headers['Content-Range'] = f'bytes {wanted[1]}-{len(body) - 1}/{len(body)}'
                    status, body = 206, body[int(wanted[1]) :]
                self.send_response(status)
                for key, value in {**headers, 'Content-Length': str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != 'HEAD':
                    self.wfile.write(body[: len(body) // 2] if cut else body)
                if cut:
                    self.hang_up()

            def hang_up(self) -> None:
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def reply(data: dict[str, Any], status: int = 200) -> Answer:
    """JSON."""
    return Answer(status, json.dumps(data).encode(), {'Content-Type': 'application/json'})


def refuse(status: int, code: str = '', message: str = '') -> Answer:
    """An error, as the Hub tells it: in headers and as JSON."""
    answer = reply({'error': message} if message else {}, status)
    told = {'X-Error-Code': code, 'X-Error-Message': message}
    return Answer(status, answer.body, answer.headers | {key: text for key, text in told.items() if text})


def is_large(path: str) -> bool:
    """Whether a file is stored through LFS."""
    return path.endswith('.safetensors')


def git_sha(data: bytes) -> str:
    """What git calls a file's contents."""
    return hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest()
