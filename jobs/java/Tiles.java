package liveprofile;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.DoubleStream;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.functions.AggregateFunction;

/**
 * TILES(tokens, now_ms, definitions): the tiles of a user's computed attributes as JSON, from the
 * tokens of the user's windows in order of time: liveprofile/wire/attribute_tiles.py.
 *
 * <p>definitions: of each attribute, separated by semicolons: digest, how values become one, span in
 * ms (0: for ever), length of a tile in ms, how many tiles are kept for ever, and the JSON before
 * the tiles. What no definition names is dropped.
 */
public class Tiles extends AggregateFunction<String, Tiles.Kept> {
    public static class Kept {
        /** Digest, start, events and value of each tile. The array is never changed. */
        @DataTypeHint("ARRAY<DOUBLE NOT NULL>")
        public double[] tiles = {};
    }

    private static final int DIGEST_END = 9, FIELDS = 4;

    private record Token(long ms, String text) {}

    private record Definition(String head, String merge, long spanMs, long tileMs, int most) {
        static Definition of(String[] fields) {
            long spanMs = Long.parseLong(fields[2]), tileMs = Long.parseLong(fields[3]);
            return new Definition(fields[5], fields[1], spanMs, tileMs, Integer.parseInt(fields[4]));
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
            for (String each : text.isEmpty() ? new String[0] : text.split(";")) {
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
        var added = new ArrayList<Token>();
        for (String event : tokens == null ? new String[0] : tokens.split(" ")) {
            String[] texts = event.split(",");
            long ms = Long.parseLong(texts[0]);
            for (int i = 1; i < texts.length; i++) added.add(new Token(ms, texts[i]));
        }
        added.sort(Comparator.comparingLong(Token::ms).thenComparing(Token::text));
        for (Token token : added) add(token, tiles);
        var flat = DoubleStream.builder();
        definitions.forEach((digest, definition) -> {
            definition.forget(tiles.get(digest), nowMs);
            tiles.get(digest).forEach((startMs, tile) ->
                    flat.add(digest).add(startMs).add(tile[0]).add(tile[1]));
        });
        kept.tiles = flat.build().toArray();
    }

    private void add(Token token, Map<Long, TreeMap<Long, double[]>> tiles) {
        long digest = Long.parseLong(token.text, 1, DIGEST_END, 16);
        Definition definition = definitions.get(digest);
        if (definition == null) return; // of an earlier definition
        TreeMap<Long, double[]> own = tiles.get(digest);
        if (token.text.charAt(0) == '-') {
            own.clear(); // and what comes at the same time
            return;
        }
        double value = Double.parseDouble(token.text.substring(DIGEST_END + 1));
        if (!Double.isFinite(value)) return;
        long startMs = token.ms - token.ms % definition.tileMs;
        own.merge(startMs, new double[] {1, value}, definition::merged);
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
