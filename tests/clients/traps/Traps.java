// The same searches with arguments as one may write them in Java; JDBC.
import java.sql.*;
import java.util.*;

public class Traps {
    static final String CHEAP = "{\"price\": {\"$lt\": 300}}";
    static final String ASK = "SELECT key FROM pgembed.search('article', ?, k => ?, filter => %s,"
            + " on_missing_query_embedding => 'bm25')";
    static Connection db;

    static void ask(String name, String query, Object k, Object filter) throws SQLException {
        ask(name, query, k, filter, "?::jsonb");
    }

    static void ask(String name, String query, Object k, Object filter, String parameter)
            throws SQLException {
        try (var statement = db.prepareStatement(ASK.formatted(parameter))) {
            statement.setString(1, query);
            statement.setObject(2, k);
            statement.setObject(3, filter);
            var keys = new TreeSet<String>();
            for (var row = statement.executeQuery(); row.next(); ) keys.add(row.getString(1));
            System.out.println((name + " " + String.join(" ", keys)).trim());
        } catch (SQLException error) {
            System.out.println(name + " " + error.getSQLState());
        }
    }

    public static void main(String[] arguments) throws SQLException {
        db = DriverManager.getConnection("jdbc:postgresql://localhost:5432/shop", "app", "secret");
        ask("k-number", "cheap flights", 10, CHEAP);
        ask("k-big", "cheap flights", 10L, CHEAP);
        ask("k-too-big", "cheap flights", 1L << 40, CHEAP);
        var json = new org.postgresql.util.PGobject();
        json.setType("jsonb");
        json.setValue(CHEAP);
        ask("filter-object", "cheap flights", 10, json, "?");
        ask("filter-string", "cheap flights", 10, "\"{\\\"price\\\": {\\\"$lt\\\": 300}}\"");
        ask("filter-null", "cheap flights", 10, null);
        ask("filter-json-null", "cheap flights", 10, "null");
        ask("filter-empty", "cheap flights", 10, "{}");
        ask("filter-no-object", "cheap flights", 10, "[1]");
        ask("filter-keys", "cheap flights", 10, "{\"id\": {\"$in\": [1, \"2\"]}}");
        ask("quotes", "cheap \"o'clock\" \\ $1 %s ? :k {} flights", 10,
            "{\"title\": \"Lisbon for less\"}");
        ask("hostile", "cheap'); drop table article; --", 10, "{\"title'\": \"x\"}");
        ask("query-null", null, 10, null);
        ask("unicode", "cheap ✈️ 😀", 10, "{\"title\": \"😀\"}");
    }
}
