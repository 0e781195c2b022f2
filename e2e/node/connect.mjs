// Connect's own client in Connect, gRPC and gRPC-Web, with the messages and services of
// the descriptors in the file DESCRIPTORS, against the server at HTTP_URL. Run by
// TestConnectInNode in e2e/jsonrpc.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test, { after } from 'node:test';

import { create, createFileRegistry, createRegistry, fromBinary } from '@bufbuild/protobuf';
import { DurationSchema, FileDescriptorSetSchema, anyPack } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, createClient, decodeBinaryHeader, encodeBinaryHeader } from '@connectrpc/connect';
import {
  Http2SessionManager,
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from '@connectrpc/connect-node';

const { HTTP_URL, DESCRIPTORS } = process.env;
const files = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(DESCRIPTORS)));
const Echo = files.getService('echo.v1.Echo');
const Stream = files.getService('echo.v1.Stream');

const sessions = new Http2SessionManager(HTTP_URL);
after(() => sessions.abort());

const baseUrl = HTTP_URL;
const http2 = { baseUrl, httpVersion: '2', sessionManager: sessions };
const jsonOptions = { registry: createRegistry(DurationSchema) }; // for what is in an Any
const transports = {
  'Connect': createConnectTransport(http2),
  'Connect in JSON': createConnectTransport({ ...http2, useBinaryFormat: false, jsonOptions }),
  'Connect by GET': createConnectTransport({ ...http2, useHttpGet: true }),
  'Connect over HTTP/1.1': createConnectTransport({ baseUrl, httpVersion: '1.1' }),
  'gRPC': createGrpcTransport({ baseUrl, sessionManager: sessions }),
  'gRPC in JSON': createGrpcTransport({ baseUrl, sessionManager: sessions, useBinaryFormat: false, jsonOptions }),
  'gRPC-Web': createGrpcWebTransport(http2),
  'gRPC-Web over HTTP/1.1': createGrpcWebTransport({ baseUrl, httpVersion: '1.1' }),
};

async function all(messages) {
  const got = [];
  for await (const m of messages) got.push(m);
  return got;
}

async function* each(...messages) {
  yield* messages;
}

// fails is the error that a call comes to.
async function fails(call) {
  try {
    await call();
  } catch (error) {
    return ConnectError.from(error);
  }
  assert.fail('no error');
}

for (const [name, transport] of Object.entries(transports)) {
  const echo = createClient(Echo, transport);
  const stream = createClient(Stream, transport);

  test(`${name}: a call, with headers`, async () => {
    let header;
    const body = new Uint8Array(20_000).fill(0xff);
    const res = await echo.echo({ text: 'héllo', body, tags: ['a', ''] }, {
      headers: { 'x-one': 'two words', 'x-some-bin': encodeBinaryHeader(new Uint8Array([0, 0xff, 7])) },
      onHeader: (h) => { header = h; },
    });
    assert.equal(res.text, 'héllo');
    assert.ok(Buffer.from(body).equals(res.body));
    assert.deepEqual(res.tags, ['a', '']);
    assert.equal(header.get('echo-x-one'), 'two words');
    assert.deepEqual([...decodeBinaryHeader(header.get('echo-x-some-bin'))], [0, 0xff, 7]);
  });

  test(`${name}: messages from the server`, async () => {
    const got = await all(stream.count({ messages: 100n, size: 1000 }));
    assert.deepEqual(got.map((m) => m.number), Array.from({ length: 100 }, (_, n) => BigInt(n)));
    assert.ok(got.every((m) => m.body.length === 1000));
    assert.deepEqual(await all(stream.count({})), []);
  });

  test(`${name}: messages from the client`, async () => {
    const res = await stream.sum(each({ value: 1n }, { value: 2n }, { value: -10n }));
    assert.equal(res.sum, -7n);
    assert.equal(res.messages, 3n);
    assert.equal((await stream.sum(each())).messages, 0n);
  });

  if (!name.includes('1.1')) {
    test(`${name}: messages both ways, in turn`, async () => {
      let answered;
      let next = Promise.resolve();
      async function* questions() {
        for (const text of ['a', 'b', 'c']) {
          await next;
          next = new Promise((resolve) => { answered = resolve; });
          yield { text };
        }
      }
      const got = [];
      for await (const m of stream.chat(questions())) {
        got.push(m.text);
        answered();
      }
      assert.deepEqual(got, ['a', 'b', 'c']);
    });
  }

  test(`${name}: an error, with a detail`, async () => {
    const detail = anyPack(DurationSchema, create(DurationSchema, { seconds: 90n }));
    const error = await fails(() => echo.fail({ code: Code.NotFound, message: 'no order é', details: [detail] }));
    assert.equal(error.code, Code.NotFound);
    assert.equal(error.rawMessage, 'no order é');
    assert.deepEqual(error.findDetails(DurationSchema).map((d) => d.seconds), [90n]);
  });

  test(`${name}: every code`, async () => {
    for (let code = 1; code <= 16; code++) {
      assert.equal((await fails(() => echo.fail({ code, message: 'x' }))).code, code);
    }
  });

  test(`${name}: an error behind messages`, async () => {
    const got = [];
    const error = await fails(async () => {
      for await (const m of stream.count({ messages: 3n, code: Code.Aborted })) got.push(m.number);
    });
    assert.equal(error.code, Code.Aborted);
    assert.deepEqual(got, [0n, 1n, 2n]);
    assert.equal((await fails(() => stream.sum(each({ code: Code.DataLoss })))).code, Code.DataLoss);
  });

  test(`${name}: a timeout`, async () => {
    assert.equal((await fails(() => echo.sleep({ delayMs: 60_000n }, { timeoutMs: 50 }))).code, Code.DeadlineExceeded);
    assert.equal(
      (await fails(() => all(stream.count({ messages: 2n, delayMs: 60_000n }, { timeoutMs: 50 })))).code,
      Code.DeadlineExceeded,
    );
  });

  test(`${name}: cancellation`, async () => {
    const calls = new AbortController();
    const call = fails(() => echo.sleep({ delayMs: 60_000n }, { signal: calls.signal }));
    setTimeout(() => calls.abort(), 50);
    assert.equal((await call).code, Code.Canceled);

    const streams = new AbortController();
    const error = await fails(async () => {
      for await (const m of stream.count({ messages: 1_000n, delayMs: 20n }, { signal: streams.signal })) {
        if (m.number === 2n) streams.abort();
      }
    });
    assert.equal(error.code, Code.Canceled);
  });

  test(`${name}: no such method`, async () => {
    const method = { ...Echo.method.echo, name: 'Nope', localName: 'nope' };
    const other = createClient({ ...Echo, methods: [method], method: { nope: method } }, transport);
    assert.equal((await fails(() => other.nope({}))).code, Code.Unimplemented);
  });
}
