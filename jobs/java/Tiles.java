package liveprofile;

import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.functions.AggregateFunction;

/**
 * TILES(tokens, now_ms, definitions): attributes of a user as JSON, from the tokens of the user's
 * windows in order of time. liveprofile/attributes/computed.py describes tokens and result.
 *
 * <p>definitions: of each attribute, separated by semicolons: digest, id, aggregate, how values
 * become one, span in ms (0: for ever), length of a tile in ms, and how many tiles are kept for
 * ever. What no definition names is dropped.
 */
public class Tiles extends AggregateFunction<String, Tiles.Kept> {
    public static class Kept {
        /** Digest, start, events and value of each tile. The array is never changed. */
        @DataTypeHint("ARRAY<DOUBLE NOT NULL>")
        public double[] tiles = {};
    }

    private static final int TIME_CHARS = 14, DIGEST_CHARS = 8, FIELDS = 4;

    private record Definition(String head, String merge, long spanMs, long tileMs, int most) {
        static Definition of(String[] fields) {
            String head = "\"" + fields[1] + "\":{\"aggregate\":\"" + fields[2] + "\",\"within_ms\":"
                    + fields[4] + ",\"tile_ms\":" + fields[5] + ",\"tiles\":[";
            long spanMs = Long.parseLong(fields[4]), tileMs = Long.parseLong(fields[5]);
            return new Definition(head, fields[3], spanMs, tileMs, Integer.parseInt(fields[6]));
        }

        double[] merged(double[] older, double[] newer) {
            double value = switch (merge) {
                case "sum" -> older[1] + newer[1];
                case "min" -> Math.min(older[1], newer[1]);
                case "max" -> Math.max(older[1], newer[1]);
                case "first" -> older[1];
                default -> newer[1];
            };
            return new double[] {older[0] + newer[0], value};
        }

        void forget(TreeMap<Long, double[]> tiles, long nowMs) {
            if (spanMs > 0) tiles.headMap(nowMs - spanMs - tileMs, true).clear();
            while (spanMs == 0 && tiles.size() > most) {
                Map.Entry<Long, double[]> oldest = tiles.pollFirstEntry();
                tiles.merge(tiles.firstKey(), oldest.getValue(), (next, old) -> merged(old, next));
            }
        }
    }

    private transient String text;
    private transient Map<Long, Definition> definitions;

    @Override
    public Kept createAccumulator() {
        return new Kept();
    }

    public void accumulate(Kept kept, String tokens, Long nowMs, String text) {
        if (!text.equals(this.text)) {
            this.text = text;
            definitions = new LinkedHashMap<>();
            for (String each : text.split(";")) {
                String[] fields = each.split(" ");
                definitions.put(Long.parseLong(fields[0], 16), Definition.of(fields));
            }
        }
        var tiles = new HashMap<Long, TreeMap<Long, double[]>>();
        definitions.keySet().forEach(digest -> tiles.put(digest, new TreeMap<>()));
        double[] old = kept.tiles;
        for (int i = 0; i < old.length; i += FIELDS) {
            TreeMap<Long, double[]> own = tiles.get((long) old[i]);
            if (own != null) own.put((long) old[i + 1], new double[] {old[i + 2], old[i + 3]});
        }
        String[] added = tokens == null ? new String[0] : tokens.split(" ");
        Arrays.sort(added);
        for (String token : added) add(token, tiles);
        int size = 0;
        for (var each : tiles.entrySet()) {
            definitions.get(each.getKey()).forget(each.getValue(), nowMs);
            size += each.getValue().size();
        }
        double[] flat = new double[FIELDS * size];
        int at = 0;
        for (long digest : definitions.keySet()) {
            for (var tile : tiles.get(digest).entrySet()) {
                flat[at++] = digest;
                flat[at++] = tile.getKey();
                flat[at++] = tile.getValue()[0];
                flat[at++] = tile.getValue()[1];
            }
        }
        kept.tiles = flat;
    }

    private void add(String token, Map<Long, TreeMap<Long, double[]>> tiles) {
        int end = TIME_CHARS + 1 + DIGEST_CHARS;
        long digest = Long.parseLong(token, TIME_CHARS + 1, end, 16);
        Definition definition = definitions.get(digest);
        if (definition == null) return; // of an earlier definition
        TreeMap<Long, double[]> own = tiles.get(digest);
        if (token.charAt(TIME_CHARS) == '-') {
            own.clear(); // and what comes at the same time
            return;
        }
        double value = Double.parseDouble(token.substring(end + 1));
        if (Double.isNaN(value) || Double.isInfinite(value)) return;
        long ms = Long.parseLong(token, 0, TIME_CHARS, 10);
        own.merge(ms - ms % definition.tileMs, new double[] {1, value}, definition::merged);
    }

    /** Of the definitions of the last call of accumulate. */
    @Override
    public String getValue(Kept kept) {
        var json = new StringBuilder("{");
        int at = 0;
        for (var each : definitions.entrySet()) {
            if (json.length() > 1) json.append(',');
            json.append(each.getValue().head);
            double[] tiles = kept.tiles;
            for (String comma = "["; at < tiles.length && tiles[at] == each.getKey(); at += FIELDS) {
                json.append(comma).append((long) tiles[at + 1]).append(',');
                json.append((long) tiles[at + 2]).append(',').append(tiles[at + 3]).append(']');
                comma = ",[";
            }
            json.append("]}");
        }
        return json.append('}').toString();
    }
}
