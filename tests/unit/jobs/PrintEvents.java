import java.util.Base64;
import liveprofile.EventTime;
import liveprofile.ParseEvent;
import org.apache.flink.table.data.MapData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.util.Collector;

/** Prints what PARSE_EVENT and EVENT_TIME return for each line of base64, in base64 again. */
class PrintEvents implements Collector<RowData> {
    private static String encoded(StringData text) {
        return text == null ? "-" : Base64.getEncoder().encodeToString(text.toBytes());
    }

    public void collect(RowData row) {
        var line = new StringBuilder();
        for (int i = 0; i < 11; i++) line.append(encoded((StringData) get(row, i))).append(' ');
        line.append(encoded(properties((MapData) get(row, 18)))).append(' ');
        for (int i = 11; i < 16; i++) line.append(get(row, i)).append(' ');
        System.out.print(line);
    }

    /** name=value, with separators that no value has. */
    private static StringData properties(MapData map) {
        if (map == null) return null;
        var text = new StringBuilder();
        var names = map.keyArray();
        for (int i = 0; i < names.size(); i++) {
            text.append(names.getString(i)).append('=');
            text.append(map.valueArray().getString(i)).append('\u001f');
        }
        return StringData.fromString(text.toString());
    }

    private static Object get(RowData row, int i) {
        return ((org.apache.flink.table.data.GenericRowData) row).getField(i);
    }

    public void close() {}

    public static void main(String[] options) throws Exception {
        long recordMs = Long.parseLong(options[0]), skewMs = Long.parseLong(options[1]);
        var parse = new ParseEvent();
        var time = new EventTime();
        parse.setCollector(new PrintEvents());
        for (String line : new String(System.in.readAllBytes()).split("\n")) {
            byte[] bytes = Base64.getDecoder().decode(line);
            StringData payload = line.isEmpty() ? null : StringData.fromBytes(bytes);
            int chars = Integer.parseInt(options[2]);
            parse.eval(payload, recordMs, options[3], "heartbeat", chars, skewMs);
            System.out.println(time.eval(payload, "event_time", recordMs + skewMs, 0L));
        }
    }
}
