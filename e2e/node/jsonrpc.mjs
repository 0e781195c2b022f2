// jayson, of 1.0 and of 2.0, as a client over HTTP (HTTP_URL) and over NATS (NATS_URL,
// with the subject NATS_SUBJECT). Run by TestJayson in e2e/jsonrpc.
import assert from 'node:assert/strict';
import { webcrypto } from 'node:crypto';
import test, { after } from 'node:test';
import { promisify } from 'node:util';

import { connect } from '@nats-io/transport-node';
import jayson from 'jayson';
import Browser from 'jayson/lib/client/browser/index.js';

globalThis.crypto ??= webcrypto; // Node 18 has it only there

const { HTTP_URL, NATS_URL, NATS_SUBJECT } = process.env;
const nats = await connect({ servers: NATS_URL });
after(() => nats.close());

function overNATS(request, callback) {
  nats.request(NATS_SUBJECT, request, { timeout: 30_000 }).then(
    (answer) => callback(null, answer.string()),
    (error) => callback(error),
  );
}

const clients = {
  HTTP: (options) => jayson.Client.http({ ...urlOf(HTTP_URL), ...options }),
  NATS: (options) => new Browser(overNATS, options),
};

function urlOf(text) {
  const { hostname, port, pathname } = new URL(text);
  return { hostname, port, path: pathname };
}

// call is one request, and its whole answer.
function call(client, method, params, ...id) {
  return new Promise((resolve, reject) => {
    client.request(method, params, ...id, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

for (const [name, make] of Object.entries(clients)) {
  for (const version of [1, 2]) {
    const client = make({ version });

    test(`${name}, ${version}.0: a call`, async () => {
      const { result } = await call(client, 'echo.v1.Echo/Echo', [{ text: 'hi', tags: ['a'] }]);
      assert.equal(result.text, 'hi');
      assert.deepEqual(result.tags, ['a']);
    });

    test(`${name}, ${version}.0: params by position`, async () => {
      const { result } = await call(client, 'echo.v1.Echo/Echo', ['hi', null, ['a', 'b']]);
      assert.equal(result.text, 'hi');
      assert.deepEqual(result.tags, ['a', 'b']);
    });

    test(`${name}, ${version}.0: a notification`, async () => {
      assert.equal(await call(client, 'echo.v1.Echo/Sleep', [0], null), undefined);
    });

    test(`${name}, ${version}.0: errors`, async () => {
      const failed = await call(client, 'echo.v1.Echo/Fail', [{ code: 5, message: 'no order 17' }]);
      const missing = await call(client, 'echo.v1.Echo/No', []);
      if (version === 1) {
        assert.equal(failed.error, 'not_found: no order 17');
        assert.equal(failed.result, null);
        assert.match(missing.error, /^unimplemented: /);
        return;
      }
      assert.deepEqual(failed.error, { code: -32005, message: 'no order 17', data: { code: 'not_found' } });
      assert.equal(failed.result, undefined);
      assert.equal(missing.error.code, -32601);
    });
  }

  const client = make({ version: 2 });

  test(`${name}, 2.0: params by name`, async () => {
    const { result } = await call(client, 'echo.v1.Echo/Echo', { text: 'hi' });
    assert.equal(result.text, 'hi');
  });

  test(`${name}, 2.0: a batch`, async () => {
    const batch = [
      client.request('echo.v1.Echo/Echo', ['one'], undefined, false),
      client.request('echo.v1.Echo/Sleep', [0], null, false),
      client.request('echo.v1.Echo/Fail', { code: 7, message: 'no' }, undefined, false),
      client.request('echo.v1.Echo/Echo', { text: 'two' }, undefined, false),
    ];
    const answers = await new Promise((resolve, reject) => {
      client.request(batch, (error, answers) => (error ? reject(error) : resolve(answers)));
    });
    assert.deepEqual(answers.map((a) => a.id), [batch[0].id, batch[2].id, batch[3].id]);
    assert.deepEqual(answers.map((a) => a.result?.text ?? a.error.code), ['one', -32007, 'two']);
  });

  test(`${name}, 2.0: a batch of notifications`, async () => {
    const batch = [client.request('echo.v1.Echo/Sleep', [0], null, false)];
    assert.equal(await promisify(client.request.bind(client))(batch), undefined);
  });
}
