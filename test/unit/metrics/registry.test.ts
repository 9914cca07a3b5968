/** Names and values of the metrics, and that they follow the conventions of Prometheus. */
import { expect, test } from 'vitest';
import { createMetrics } from '../../../src/metrics/registry.js';
import { scoped } from '../../helpers/cleanup.js';
import { openTestCopyServices } from '../array/pool.js';

interface Family {
  readonly type: string;
  readonly help: string;
  readonly samples: Map<string, number>;
}

/** Reads the text format: `# HELP`, `# TYPE`, samples. */
function parse(text: string): Map<string, Family> {
  const families = new Map<string, Family>();
  let help = '';
  for (const line of text.split('\n').filter((each) => each !== '')) {
    const [, word, name = '', rest = ''] = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line) ?? [];
    if (word === 'HELP') help = rest;
    else if (word === 'TYPE') families.set(name, { type: rest, help, samples: new Map() });
    else {
      const [, sample = '', labels = '', value] = /^([a-z_0-9]+)(\{.*\})? (\S+)$/.exec(line) ?? [];
      families.get(sample)?.samples.set(labels, Number(value));
    }
  }
  return families;
}

test('volumes, relationships and the pool are shown', () =>
  scoped(async (scope) => {
    const services = await openTestCopyServices(scope);
    const metrics = createMetrics({ ...services, version: '1.2.3' });
    await services.copyServices.establish({
      pairs: [{ source: '1203', target: '1303' }],
      noCopy: true,
    });
    expect(metrics.contentType).toMatch(/^text\/plain; version=0\.0\.4/);
    const families = parse(await metrics.text());
    const sample = (name: string, labels = '') => families.get(name)?.samples.get(labels);
    const pair = '{source="1203",target="1303"}';
    expect(sample('flashlun_build_info', `{version="1.2.3",node="${process.version}"}`)).toBe(1);
    expect(sample('flashlun_volume_read_bytes_total', '{volume="1203"}')).toBe(0);
    expect(sample('flashlun_volume_size_bytes', '{volume="1304"}')).toBe(2 ** 20);
    expect(sample('flashlun_nbd_connections', '{volume="1203"}')).toBe(0);
    expect(sample('flashlun_flashcopy_tracks', pair)).toBe(16);
    expect(sample('flashlun_flashcopy_out_of_sync_tracks', pair)).toBe(0);
    expect(sample('flashlun_flashcopy_copied_tracks_total')).toBe(0);
    expect(sample('flashlun_flashcopy_relationships', '{mode="nocopy"}')).toBe(1);
    expect(sample('flashlun_flashcopy_established_total')).toBe(1);
    expect(sample('flashlun_pool_capacity_bytes', '{pool="default"}')).toBe(2 ** 30);
    expect(sample('flashlun_pool_stopped')).toBe(0);
    expect(sample('flashlun_metadata_mirror_state')).toBe(0);
    // A later scrape sees what happened in between.
    await services.copyServices.withdraw({ source: '1203', target: '1303' });
    const later = parse(await metrics.text());
    expect(later.get('flashlun_flashcopy_tracks')?.samples.size).toBe(0);
  }));

test('names and types follow the conventions', () =>
  scoped(async (scope) => {
    const metrics = createMetrics({ ...(await openTestCopyServices(scope)), version: '1' });
    const ours = [...parse(await metrics.text())].filter(([name]) => name.startsWith('flashlun_'));
    expect(ours.length).toBeGreaterThan(20);
    for (const [name, { type, help }] of ours) {
      expect(name).toMatch(/^flashlun_[a-z]+(_[a-z]+)*$/);
      expect(`${name} is a ${type}`).toBe(
        `${name} is a ${name.endsWith('_total') ? 'counter' : 'gauge'}`,
      );
      expect(help).toMatch(/^[A-Z1].+[^.]$/);
    }
  }));
